"""Clipping in Lightning's Trainer with one callback, for automatic and manual optimization.

The callback works with `lightning.pytorch` and `pytorch_lightning`, which have separate `Callback` classes.
"""

import contextlib
import copy
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipwise.errors import ArgumentError, StateError
from clipwise.functional.arguments import NonFinite
from clipwise.integrations._common import (
    ClipLike,
    Order,
    follows_loss,
    is_listed,
    load,
    orders,
    say_if_unseen,
)
from clipwise.stack import warn
from clipwise.torch.attach import AttachedClipper

__all__ = ["ClipCallback"]

# An installation of `lightning` has both packages, and which one the Trainer will come from is not known yet.
_HOMES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
_INSTALLED = [name for name in _HOMES if importlib.util.find_spec(name)] or ["lightning"]
_BASES: Any = tuple(load(_HOMES[name], "lightning").Callback for name in _INSTALLED)


class ClipCallback(*_BASES):  # type: ignore[misc]
    """Clip before every optimizer step of a `lightning.pytorch.Trainer`, as `clipwise.torch.attach` does.

    ::

        trainer = Trainer(callbacks=[ClipCallback(clipwise.clip_by_global_norm(1.0))])

    With automatic and manual optimization alike, each optimizer is clipped separately when it steps, as with
    Lightning's ``gradient_clip_val``. The clipped gradients are those that the step uses: after accumulation,
    and without the loss scale of ``precision="16-mixed"``, also for fused optimizers. Thresholds that follow
    the loss receive the loss of the backward passes since the last step, without loss scale and accumulation,
    as a mean over all processes.

    Every ``log_every_n_steps`` the report is logged through the module: ``clipwise/norm`` (also on the
    progress bar), ``clipwise/norm_after``, ``clipwise/threshold``, ``clipwise/clip_fraction`` and so on; with
    several optimizers ``clipwise/optimizer0/norm``. Between these steps nothing is read from the device. The
    state of the thresholds is part of Lightning's checkpoints.

    Args:
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`. A list has one clip per
            optimizer, None for those that are not clipped.
        nonfinite, direction: as for `clipwise.torch.attach`.
        weights: what is done to the weights after every step; a list as for ``clip``.
        updates: what is done to the update of every step, as for `clipwise.torch.attach`; a list likewise.
        log: whether to log.
        per_tensor: log the norm of each parameter too, as ``clipwise/norm/<parameter>``.

    Attributes:
        clippers: one `AttachedClipper` per optimizer, None for those that are not clipped; empty before the
            fit.

    Raises:
        ArgumentError: immediately, if the argument is not a clip; at the start of the fit, if
            ``gradient_clip_val`` is set too, there is no optimizer, or the list has another length than the
            optimizers.
        ParameterError: at the start of the fit, if a pattern of `by_name` matches no parameter.

    Warns:
        UserWarning: with the first logs and at the end, if the weights changed and no gradient was seen.

    >>> import clipwise
    >>> ClipCallback(clipwise.autoclip(10)).clippers
    []
    >>> ClipCallback("clip_by_global_nrom(1.0)")
    Traceback (most recent call last):
    clipwise.errors.ConfigError: ...
    """

    def __init__(
        self,
        clip: ClipLike | Sequence[ClipLike | None] | None = None,
        *,
        nonfinite: NonFinite = "skip",
        weights: ClipLike | Sequence[ClipLike | None] | None = None,
        updates: ClipLike | Sequence[ClipLike | None] | None = None,
        direction: bool = False,
        log: bool = True,
        per_tensor: bool = False,
    ) -> None:
        super().__init__()
        self._orders = orders(clip, weights, updates, nonfinite, direction)
        self._listed = any(map(is_listed, (clip, weights, updates)))
        self._log, self._per_tensor = log, per_tensor
        self.clippers: list[AttachedClipper | None] = []
        self._attached = False
        self._by_optimizer: dict[int, AttachedClipper] = {}
        self._logged: list[int] = []
        self._losses: list[Tensor] = []  # of the backward passes since the last step
        self._stepped = False
        self._resumes = False
        self._loaded: Mapping[str, Any] | None = None
        self._kept: dict[str, Any] = {}

    @property
    def clipper(self) -> AttachedClipper | None:
        """The clipper of the only optimizer; None before the fit.

        Raises:
            ArgumentError: there are several optimizers; use ``clippers``.
        """
        if len(self.clippers) > 1:
            raise ArgumentError(f"there are {len(self.clippers)} optimizers: see clippers")
        return self.clippers[0] if self.clippers else None

    def __getstate__(self) -> dict[str, Any]:
        """A copy is in no fit, and keeps the record of the last."""
        none = {"_attached": False, "_by_optimizer": {}, "_losses": [], "_kept": self.state_dict()}
        return vars(self) | none | {"clippers": [copy.copy(clipper) for clipper in self.clippers]}

    # The run.

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._loaded, self._resumes = None, False
        theirs = trainer.gradient_clip_val
        if stage == "fit" and theirs and theirs > 0 and any(one.clip is not None for one in self._orders):
            clips = ", ".join(str(one) for one in self._orders)
            raise ArgumentError(
                f"gradient_clip_val={theirs!r} of the Trainer would clip too, before ClipCallback ({clips}):"
                " remove one of them"
            )

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self._end()
        optimizers = trainer.optimizers
        self.clippers, self._attached = [], True
        try:
            chosen = self._orders_for(optimizers, pl_module)
            for optimizer, order in zip(optimizers, chosen, strict=True):
                self.clippers.append(None if order.is_idle else order.attach(optimizer, pl_module))
            if self._loaded is not None:
                self._load(self._loaded)
        except Exception:
            self._end()
            raise
        self._by_optimizer = {
            id(optimizer): clipper
            for optimizer, clipper in zip(optimizers, self.clippers, strict=True)
            if clipper is not None
        }
        self._logged = [0 if one is None else one.steps for one in self.clippers]
        self._losses, self._stepped = [], False
        if self._resumes and self._loaded is None and any(order.remembers for order in chosen):
            warn("the checkpoint has no state of ClipCallback: its thresholds begin afresh")

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
        if not any(map(follows_loss, self._by_optimizer.values())):
            return
        if self._stepped:
            self._losses, self._stepped = [], False
        loss = loss.detach()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            loss = loss / scaler.scale(torch.ones_like(loss))  # get_scale would wait for the device
        if pl_module.automatic_optimization:
            loss = loss * trainer.accumulate_grad_batches
        self._losses.append(loss.to(torch.promote_types(loss.dtype, torch.float32)).reshape(()))

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        self._stepped = True
        clipper = self._by_optimizer.get(id(optimizer))
        if clipper is not None and self._losses and follows_loss(clipper):
            # The same threshold on every rank, so that their parameters stay the same.
            loss = torch.stack(self._losses).mean()
            clipper.observe(trainer.strategy.reduce(loss, reduce_op="mean"))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        connector = trainer._logger_connector  # as Lightning's own callbacks ask it
        if not self._log or not (connector.should_update_logs or trainer.fast_dev_run):
            return
        for place, clipper in enumerate(self.clippers):
            if clipper is not None:
                say_if_unseen(clipper)
            if clipper is None or clipper.report is None or clipper.steps == self._logged[place]:
                continue
            self._logged[place] = clipper.steps
            for name, value in clipper.report.metrics(per_tensor=self._per_tensor).items():
                on_bar = name == "clipwise/norm"
                if len(self.clippers) > 1:
                    name = name.replace("clipwise/", f"clipwise/optimizer{place}/", 1)
                # On the CPU, since what is on the progress bar is read again after every batch.
                number = torch.tensor(value, dtype=torch.float64, device="cpu")
                pl_module.log(name, number, prog_bar=on_bar, on_step=True, on_epoch=False, batch_size=1)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._end()

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: tensors, numbers, lists and dicts."""
        if not self._attached:
            return self._kept
        return {"clippers": [None if one is None else one.state_dict() for one in self.clippers]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a state, when the fit begins, or immediately if it has begun.

        Raises:
            StateError: the state belongs to another kind of clip or to other optimizers.
        """
        self._loaded = state_dict
        if self._attached:
            self._load(state_dict)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Mapping[str, Any]) -> None:
        self._resumes = True

    def _load(self, state: Mapping[str, Any]) -> None:
        states = state.get("clippers")
        if not isinstance(states, list) or [one is None for one in states] != [
            one is None for one in self.clippers
        ]:
            raise StateError("the state of ClipCallback in the checkpoint is of other optimizers")
        for clipper, one in zip(self.clippers, states, strict=True):
            if clipper is not None:
                clipper.load_state_dict(one)

    def _orders_for(self, optimizers: Sequence[Optimizer], pl_module: Any) -> list[Order]:
        if not optimizers or type(optimizers[0]).__name__ == "_MockOptimizer":
            raise ArgumentError(
                f"configure_optimizers of {type(pl_module).__name__} returns no optimizer:"
                " there is nothing to clip"
            )
        if not self._listed:
            return self._orders * len(optimizers)
        if len(self._orders) != len(optimizers):
            raise ArgumentError(
                f"{len(self._orders)} clips are listed, and configure_optimizers of"
                f" {type(pl_module).__name__} returns {len(optimizers)} optimizers: list one for each"
            )
        return self._orders

    def _end(self) -> None:
        """Stop clipping; reports, counts and the state stay."""
        if not self._attached:
            return
        with contextlib.suppress(RuntimeError):  # after an error of the device it cannot be read any more
            self._kept = self.state_dict()
        self._attached = False
        self._by_optimizer = {}
        for clipper in self.clippers:
            if clipper is not None:
                clipper.detach()
