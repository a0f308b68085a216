"""A clip at work on one set of parameters: its history, its counts, its last report."""

import dataclasses
import numbers
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from clipwise import config
from clipwise.clip import AnyClip, ByName, Chain, Clip
from clipwise.errors import ArgumentError, NonFiniteError, ParameterError, StateError
from clipwise.report import ClipReport
from clipwise.torch._limit import Facts
from clipwise.torch._measure import Measure, order_of, values_of
from clipwise.torch._parameters import Parameters, embedding_weights, named, refuse_unmade
from clipwise.torch._plan import make_plan
from clipwise.torch._stage import untouched
from clipwise.torch._state import dump, load
from clipwise.torch.engines import reference as engine

__all__ = ["Clipper", "NonFinite", "as_clip"]

NonFinite: TypeAlias = Literal["skip", "zero", "error", "propagate"]


def as_clip(clip: AnyClip | str | Mapping[str, Any]) -> AnyClip:
    """The clip itself, or what a string or a mapping describes; ArgumentError for anything else."""
    found = config.parse(clip) if isinstance(clip, str | Mapping) else clip
    if not isinstance(found, Clip | Chain | ByName):
        raise ArgumentError(f"expected a clip such as clipwise.clip_by_global_norm(1.0), got {clip!r}")
    return found


class Clipper:
    """Clips the gradients of some parameters each time `clip_` is called, and remembers between the calls.

    For a plain loop `clipwise.torch.attach` is one line less. Use this where there is no optimizer to attach
    to, or where the moment of clipping is yours to choose::

        clipper = Clipper(model.named_parameters(), clipwise.autoclip(10))
        ...
        loss.backward()
        report = clipper.clip_()
        if not report.skipped:
            optimizer.step()

    Args:
        parameters: a module, tensors, or (name, tensor) pairs; a tensor that is listed twice counts once.
        clip: what to do; a string or a mapping is read by `clipwise.config.parse`.
        nonfinite: what happens to gradients that hold NaN or Inf: ``"skip"`` leaves them and reports
            ``skipped``; ``"zero"`` puts 0 in the place of such entries and clips the rest; ``"error"`` raises
            before anything is touched; ``"propagate"`` clips as if nothing were wrong. All but the last wait
            for the device once a step.
        direction: measure the cosine between the gradients before and after even where it is not free; it
            costs a copy of the gradients.
        model: tells which weights are embeddings, for `clipwise.auto`.

    Attributes:
        report: the `ClipReport` of the last call, None before the first.
        steps: calls so far.
        skipped_steps: those that were skipped.

    Raises:
        ArgumentError: the clip or ``nonfinite`` is not one.
        ParameterError: a pattern of `by_name` matches nothing.
    """

    def __init__(
        self,
        parameters: Parameters,
        clip: AnyClip | str | Mapping[str, Any],
        *,
        nonfinite: NonFinite = "propagate",
        direction: bool = False,
        model: nn.Module | None = None,
    ) -> None:
        clip = as_clip(clip)
        if nonfinite not in get_args(NonFinite):
            allowed = ", ".join(get_args(NonFinite))
            raise ArgumentError(f"nonfinite must be one of {allowed}, got {nonfinite!r}")
        if model is None and isinstance(parameters, nn.Module):
            model = parameters
        self.clip = clip
        self.nonfinite = nonfinite
        self.direction = direction
        self.parameters = named(parameters)
        refuse_unmade(self.parameters)
        self.report: ClipReport | None = None
        self.steps = 0
        self.skipped_steps = 0
        self._clipped_steps = torch.zeros((), dtype=torch.int64)
        self._losses: list[Tensor] = []
        self._plan = make_plan(clip, self.parameters, embedding_weights(model))
        self._needs_loss = "loss" in self._plan.needs()

    @property
    def clipped_steps(self) -> int:
        """How many steps were clipped; reading it waits for the device."""
        return int(self._clipped_steps)

    def observe(self, loss: Tensor | float) -> None:
        """Tell the loss of the coming step, for thresholds that react to it.

        Call it before the step, once for each micro-batch; several losses count as their mean.
        """
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ArgumentError(f"observe takes one loss, got a tensor of shape {tuple(loss.shape)}")
        if not isinstance(loss, Tensor | numbers.Real):
            raise ArgumentError(f"observe takes a loss, a number or a tensor, got {loss!r}")
        # Detached at once: an observed loss must not keep the graph of its step alive.
        self._losses.append(
            loss.detach().reshape(())
            if isinstance(loss, Tensor)
            else torch.tensor(float(loss), dtype=torch.float64)
        )

    def clip_(self) -> ClipReport:
        """Clip the gradients as they are now, in place, and report.

        Raises:
            NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``; nothing was touched.
            ParameterError: the threshold follows the loss and `observe` was not called.
        """
        return self._step(None)

    @torch.no_grad()
    def _step(self, scale: Tensor | None) -> ClipReport:
        """`clip_` of gradients that are multiplied by a scale."""
        if self._needs_loss and not self._losses:
            raise ParameterError(
                "the threshold follows the loss: call clipper.observe(loss) before every step"
            )
        gradients = self._gradients()
        report = self._clip(gradients, scale) if gradients else self._nothing()
        self.steps += 1
        self.skipped_steps += report.skipped
        clipped = torch.as_tensor(report.clipped)
        self._clipped_steps = self._clipped_steps.to(clipped.device) + clipped
        self._losses.clear()
        self.report = report
        return report

    def _gradients(self) -> dict[str, Tensor]:
        found = {}
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.is_sparse and not gradient.is_coalesced():
                gradient = parameter.grad = gradient.coalesce()
            found[name] = _writable(parameter, gradient)
        return found

    def _clip(self, gradients: dict[str, Tensor], scale: Tensor | None) -> ClipReport:
        measure = Measure(list(gradients.values()), scale)
        p = order_of(self._plan.norm)
        if isinstance(self.clip, Clip) and self.clip.per == "unit":
            measure.units(p)  # the norms of the tensors follow from these: one read for both
        norms = measure.tensors(p)
        bad = ~norms.isfinite()
        names = tuple(gradients)

        if self.nonfinite != "propagate" and bool(bad.any()):
            if self.nonfinite == "error":
                first = names[int(bad.nonzero()[0])]
                raise NonFiniteError(
                    f"the gradient of {first!r} holds NaN or Inf ({int(bad.sum())} tensors in all)"
                )
            if self.nonfinite == "skip":
                return dataclasses.replace(
                    self._skip(measure), names=names, tensor_norms=norms, nonfinite=bad.sum()
                )
            for gradient, is_bad in zip(measure.gradients, bad.tolist(), strict=True):
                if is_bad:
                    values = values_of(gradient)
                    values.copy_(torch.where(values.isfinite(), values, torch.zeros_like(values)))
            measure = measure.again()

        before = [values_of(g).clone() for g in measure.gradients] if self.direction else []
        report = self._plan.apply(gradients, measure, self._facts())
        if before:
            report = dataclasses.replace(report, direction=_cosine(before, measure))
        return dataclasses.replace(report, names=names, tensor_norms=norms, nonfinite=bad.sum())

    def _facts(self) -> Facts:
        loss = None
        if self._losses:
            device = self._losses[0].device
            losses = [one.to(device, engine.wide(device)) for one in self._losses]
            loss = torch.stack(losses).mean()
        return Facts(step=self.steps, loss=loss)

    def _skip(self, measure: Measure) -> ClipReport:
        facts = self._facts()
        for stage in self._plan.stages():
            stage.limit.listen(facts)  # a loss of NaN is news to the thresholds that follow it
        norm = measure.joint(self._plan.norm)
        report = dataclasses.replace(
            untouched(norm),
            norm_after=torch.zeros_like(norm),
            threshold=torch.full_like(norm, torch.nan),
            direction=None,
            skipped=True,
        )
        return self._plan.blank(report)

    def _nothing(self) -> ClipReport:
        """The report of a call without any gradient: norm 0, on the parameters' device."""
        device = next((p.device for p in self.parameters.values()), torch.device("cpu"))
        return self._plan.blank(untouched(torch.zeros((), dtype=engine.wide(device), device=device)))

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: counts and the histories of the thresholds.

        Holds tensors, numbers, lists and dicts only, so ``torch.load(..., weights_only=True)`` reads it.
        """
        return {
            "version": 1,
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "clipped_steps": self.clipped_steps,
            "thresholds": dump(list(self._plan.stages()), self._names()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; the run goes on as if it had never stopped.

        The numbers of a policy may differ from those it was taken with (another percentile, say).

        Raises:
            StateError: it was taken with another kind of clip, or with other parameters. Nothing is changed.
        """
        counts = ("steps", "skipped_steps", "clipped_steps")
        if not isinstance(state, Mapping) or not {"version", "thresholds", *counts} <= state.keys():
            raise StateError("this is no state of a Clipper")
        if state["version"] != 1:
            raise StateError(f"the state has version {state['version']!r}; this clipwise reads version 1")
        stages = list(self._plan.stages())
        loaded = load(stages, self._names(), state["thresholds"])
        steps, skipped, clipped = (int(state[name]) for name in counts)
        for stage, new in zip(stages, loaded, strict=True):
            if stage.limit.keeper:
                stage.limit.keeper.state = new
        self.steps, self.skipped_steps = steps, skipped
        self._clipped_steps = torch.tensor(clipped)

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.parameters.items()}


def _writable(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient, or a copy put in its place where several of its entries share one memory (``expand``)."""
    if not gradient.is_sparse and any(
        stride == 0 and size > 1 for stride, size in zip(gradient.stride(), gradient.shape, strict=True)
    ):
        gradient = parameter.grad = gradient.contiguous()
    return gradient


def _cosine(before: list[Tensor], measure: Measure) -> Tensor:
    sums = torch.zeros(3, dtype=measure.dtype, device=measure.device)
    for old, new in zip(before, measure.gradients, strict=True):
        sums += torch.stack(engine.cosine(old, values_of(new))).to(sums)
    lengths = sums[1].sqrt() * sums[2].sqrt()
    return torch.where(lengths > 0, sums[0] / lengths, torch.ones_like(lengths))
