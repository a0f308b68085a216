"""Clipping in Hugging Face's Trainer, and in trainers derived from it, with one callback."""

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clipwise.errors import ArgumentError
from clipwise.files import replacing
from clipwise.functional.arguments import NonFinite
from clipwise.integrations._common import ClipLike, follows_loss, is_listed, load, orders, say_if_unseen
from clipwise.stack import frames_of, warn
from clipwise.torch.attach import AttachedClipper
from clipwise.torch.dropins import get_total_norm

__all__ = ["ClipCallback"]

_transformers: Any = load("transformers", "transformers")
_FILE = "clipwise.pt"
_MIXED = "_mixed_mesh_grad_norm"


class ClipCallback(_transformers.TrainerCallback):  # type: ignore[misc]
    """Clip before every optimizer step of a `transformers.Trainer`, as `clipwise.torch.attach` does.

    ::

        trainer = Trainer(..., callbacks=[ClipCallback(clipwise.clip_by_global_norm(1.0))])

    It replaces ``max_grad_norm`` (1.0 by default), which is not applied during the training: the Trainer only
    measures, so ``grad_norm`` in the logs is the norm before clipping, as usual. ``clipwise/norm``,
    ``clipwise/norm_after``, ``clipwise/threshold``, ``clipwise/clip_fraction`` and so on, of the same step,
    are added to ``state.log_history`` and wherever the Trainer reports to.

    Thresholds that follow the loss receive the loss of each step, as a mean over all processes. Their state
    is saved as ``clipwise.pt`` in each checkpoint and read by ``train(resume_from_checkpoint=...)``.

    Args:
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`. Without one
            ``max_grad_norm`` stays in force.
        nonfinite, direction: as for `clipwise.torch.attach`.
        weights: what is done to the weights after every step.
        updates: what is done to the update of every step, as for `clipwise.torch.attach`.
        log: whether to log.
        per_tensor: log the norm of each parameter too, as ``clipwise/norm/<parameter>``.

    Attributes:
        clipper: the `AttachedClipper` of the last training; None before the first.

    Raises:
        ArgumentError: immediately, if the argument is not a clip; at the start of the training, if the
            optimizer holds shards (FSDP, DeepSpeed) or takes no steps (``optim="lomo"``, layer-wise GaLore),
            or no Trainer is training.
        ParameterError: at the start of the training, if a pattern of `by_name` matches no parameter.
        StateError: when a training is resumed, if the checkpoint belongs to another kind of clip.

    Warns:
        UserWarning: with the first logs and at the end, if the weights changed and no gradient was seen.

    >>> import clipwise
    >>> ClipCallback(clipwise.autoclip(10)).clipper
    >>> ClipCallback(-1.0)
    Traceback (most recent call last):
    clipwise.errors.ArgumentError: expected a clip such as clipwise.clip_by_global_norm(1.0), got -1.0
    """

    def __init__(
        self,
        clip: ClipLike | None = None,
        *,
        nonfinite: NonFinite = "skip",
        weights: ClipLike | None = None,
        updates: ClipLike | None = None,
        direction: bool = False,
        log: bool = True,
        per_tensor: bool = False,
    ) -> None:
        for given in (clip, weights, updates):
            if is_listed(given):
                raise ArgumentError(f"a Trainer has one optimizer: expected one clip, got {given!r}")
        (self._order,) = orders(clip, weights, updates, nonfinite, direction)
        self._log, self._per_tensor = log, per_tensor
        self.clipper: AttachedClipper | None = None
        self._trainer: Any = None
        self._trial: Any = None
        self._replaced: list[tuple[Any, str, dict[str, Any]]] = []
        self._loss: Tensor | None = None
        self._steps = 0  # of the clipper, before the step that is under way

    def __getstate__(self) -> dict[str, Any]:
        """A copy is in no training, and keeps the record of the last."""
        none: dict[str, Any] = {"_trainer": None, "_trial": None, "_replaced": [], "_loss": None}
        return vars(self) | none | {"clipper": copy.copy(self.clipper)}

    # The training.

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        **kwargs: Any,
    ) -> None:
        self._end()  # of a training that was broken off
        trainer, checkpoint, trial = _training()
        self.clipper = self._order.attach(optimizer, model)
        self._trainer, self._trial, self._loss = trainer, trial, None
        try:
            if checkpoint is not None:
                self._resume(checkpoint)
        except Exception:
            self._end()
            raise
        if self._order.clip is not None:
            self._take_over(args)
        if self._log:
            self._replace(trainer, "log", self._with_report(trainer.log))
        if follows_loss(self.clipper):
            self._replace(trainer, "training_step", self._with_loss(trainer.training_step))

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._steps = 0 if self.clipper is None else self.clipper.steps

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.clipper is not None and self._loss is not None:
            # The same threshold on every rank, so that their parameters stay the same.
            self.clipper.observe(self._trainer.accelerator.reduce(self._loss, reduction="mean"))
            self._loss = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end()

    # Checkpoints.

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer is None or self.clipper is None or not args.should_save or args.save_only_model:
            return
        folder = self._trainer._get_output_dir(self._trial)
        path = os.path.join(folder, f"checkpoint-{state.global_step}", _FILE)
        with replacing(path) as part:
            torch.save(self.clipper.state_dict(), part)

    def _resume(self, checkpoint: str) -> None:
        assert self.clipper is not None
        path = os.path.join(checkpoint, _FILE)
        if os.path.isfile(path):
            self.clipper.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        elif self._order.remembers:
            warn(f"{checkpoint} has no {_FILE}: the thresholds begin afresh")

    # In the Trainer.

    def _take_over(self, args: Any) -> None:
        """Let the Trainer's clipping measure only."""
        theirs = args.max_grad_norm
        if theirs and theirs > 0 and theirs != type(args).max_grad_norm:
            warn(f"max_grad_norm={theirs:g} is not applied: ClipCallback clips instead, with {self._order}")
        accelerator = self._trainer.accelerator
        measure = _measure_only(accelerator)
        self._replace(accelerator, "clip_grad_norm_", measure)
        if hasattr(self._trainer, _MIXED):  # of gradients on several meshes, or on one and plain
            self._replace(
                self._trainer, _MIXED, lambda model, max_norm: measure(model.parameters(), max_norm)
            )

    def _with_report(self, log: Callable[..., None]) -> Callable[..., None]:
        def log_with_report(logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
            # Not in those of an evaluation, nor after a step that a gradient scaler left out.
            clipper = self.clipper
            if "loss" in logs and clipper and clipper.report and clipper.steps > self._steps:
                logs.update(clipper.report.metrics(per_tensor=self._per_tensor))
            if clipper:
                say_if_unseen(clipper)
            log(logs, *args, **kwargs)

        return log_with_report

    def _with_loss(self, training_step: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def training_step_with_loss(*args: Any, **kwargs: Any) -> Tensor:
            loss = training_step(*args, **kwargs)
            # Each is its share of the step's loss: divided by the number of them, or by all tokens.
            self._loss = loss.detach() if self._loss is None else self._loss + loss.detach()
            return loss

        return training_step_with_loss

    def _replace(self, owner: Any, name: str, function: Callable[..., Any]) -> None:
        """Put a function in place of a method of this one object, until `_end`."""
        before = {name: vars(owner)[name]} if name in vars(owner) else {}
        self._replaced.append((owner, name, before))
        setattr(owner, name, function)

    def _end(self) -> None:
        """Leave the Trainer and the optimizer as they were; reports and counts stay."""
        for owner, name, before in self._replaced:
            vars(owner).pop(name, None)
            vars(owner).update(before)
        self._replaced, self._trainer, self._trial = [], None, None
        if self.clipper is not None:
            self.clipper.detach()


def _measure_only(accelerator: Any) -> Callable[..., Tensor]:
    """In the place of Accelerate's `clip_grad_norm_`, which makes NaN of all gradients if one holds Inf."""

    def measure(parameters: Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> Tensor:
        accelerator.unscale_gradients()
        trained = [p for p in parameters if p.grad is not None or p.requires_grad]
        gradients = [p.grad for p in trained]
        if any(hasattr(p, "placements") for p in trained):  # every rank adds to the norm of each of them
            gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        return get_total_norm([g for g in gradients if g is not None], norm_type)

    return measure


def _training() -> tuple[Any, str | None, Any]:
    """The Trainer whose training is under way, the checkpoint that it resumes, and the trial of a search.

    No callback is told any of them, so they are looked up where they are: in the frame of the training loop.
    """
    for frame in frames_of("_inner_training_loop", "train"):
        there: Mapping[str, Any] = frame.f_locals
        if isinstance(there.get("self"), _transformers.Trainer):
            return there["self"], there.get("resume_from_checkpoint"), there.get("trial")
    raise ArgumentError("ClipCallback acts inside transformers.Trainer.train(); no Trainer is training here")
