"""A clip at work on one set of parameters: its history, its counts, its last report."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from clipwise.clip import AnyClip, Clip
from clipwise.config.arguments import as_clip
from clipwise.errors import ArgumentError, NonFiniteError, ParameterError, StateError
from clipwise.functional.arguments import NonFinite, as_nonfinite
from clipwise.functional.facts import Facts
from clipwise.functional.merging import untouched
from clipwise.functional.scaling import order_of
from clipwise.functional.slots import UnitAxes
from clipwise.namespace import Array
from clipwise.report import ClipReport
from clipwise.torch._gradients import Gradients
from clipwise.torch._measure import Measure
from clipwise.torch._parameters import Parameters, embedding_weights, named, refuse_unmade
from clipwise.torch._plan import make_plan
from clipwise.torch._state import dump, load
from clipwise.torch._units import Units
from clipwise.torch.engines import AnyBatch, reference, refuse_unknown_engine
from clipwise.torch.engines._arrays import NUMPY, array_on, namespace_on, tensor_of, wide
from clipwise.torch.engines.reference import values_of
from clipwise.torch.refusals import refuse_shards
from clipwise.torch.reports import in_torch

__all__ = ["Clipper", "Follower", "Veto"]

Follower: TypeAlias = Callable[["Clipper", ClipReport, Tensor | None], None]
Veto: TypeAlias = Callable[["Clipper", float, float | None], bool]


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
        model: tells which weights are embeddings, for `clipwise.auto`, and which are those of transposed
            convolutions, for ``per="unit"``.
        unit_axes: shell patterns of names to the axes along which output units lie, where they are not:
            axis 0 of a weight (axis 1 of a transposed convolution of the model), all of a vector. A number,
            several, or None: all of it is one unit. The first match wins; for ``per="unit"`` only.

    Attributes:
        report: the `ClipReport` of the last call, None before the first.
        steps: calls so far.

    Raises:
        ArgumentError: the clip or ``nonfinite`` is not one, or an axis is none of its weight.
        ParameterError: a pattern of `by_name` or of ``unit_axes`` matches nothing.
    """

    _source: type[Gradients] = Gradients

    def __init__(
        self,
        parameters: Parameters,
        clip: AnyClip | str | Mapping[str, Any],
        *,
        nonfinite: NonFinite = "propagate",
        direction: bool = False,
        model: nn.Module | None = None,
        unit_axes: UnitAxes | None = None,
    ) -> None:
        clip, nonfinite = as_clip(clip), as_nonfinite(nonfinite)
        if model is None and isinstance(parameters, nn.Module):
            model = parameters
        if not isinstance(model, nn.Module | None):
            raise ArgumentError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        refuse_unknown_engine()
        self.clip = clip
        self.nonfinite = nonfinite
        self.direction = direction
        self.parameters = named(parameters)
        refuse_unmade(self.parameters)
        refuse_shards(self.parameters)
        self.report: ClipReport | None = None
        self.steps = 0
        self._clipped_steps: Array = 0
        self._skipped_steps: Array = 0
        self._folded: Array | None = None
        self._left_out: Array | None = None
        self._losses: list[Tensor] = []
        self._followers: list[Follower] = []
        self._vetoes: list[Veto] = []
        self._units = Units(unit_axes)
        self._units.extend(self.parameters, model)
        self._gradients = self._source(self.parameters, self._units)
        self._plan = make_plan(clip, self.parameters, embedding_weights(model), self._units)
        self._needs_loss = "loss" in self._plan.needs()
        self._sees = self._plan.sees()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_followers": [], "_vetoes": []}  # those who listen to one do not know its copy

    @property
    def clipped_steps(self) -> int:
        """How many steps were clipped; reading it waits for the device."""
        return int(self._clipped_steps)

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped; reading it may wait for the device."""
        return int(self._skipped_steps)

    def observe(self, loss: Tensor | float) -> None:
        """Tell the loss of the coming step, for thresholds that react to it.

        Call it before the step, once for each micro-batch; several losses count as their mean.
        """
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ArgumentError(f"observe takes one loss, got a tensor of shape {tuple(loss.shape)}")
        if not isinstance(loss, Tensor | numbers.Real):
            raise ArgumentError(f"observe takes a loss, a number or a tensor, got {loss!r}")
        # Detached at once: an observed loss must not keep the graph of its step alive. Copied: it is read
        # with the step, or later by those who follow, and a sum over micro-batches changes in place.
        self._losses.append(
            loss.detach().reshape(()).clone()
            if isinstance(loss, Tensor)
            else torch.tensor(float(loss), dtype=torch.float64)
        )

    @property
    def followers(self) -> tuple["Follower", ...]:
        """The functions that are called after each step, in their order."""
        return tuple(self._followers)

    def follow(self, follower: "Follower") -> Callable[[], None]:
        """Have a function called after each step.

        It is given this clipper, the report, and the last loss that was observed, or None. It runs in the
        training's own thread, so it should not wait for the device.

        Returns:
            What ends it.
        """
        self._followers.append(follower)
        return lambda: self._followers.remove(follower) if follower in self._followers else None

    def veto(self, judge: "Veto") -> Callable[[], None]:
        """Have a function asked before each step whether to leave it out.

        It is given this clipper, the norm of the gradients, and the last loss that was observed, or None.
        Where it says so, the step is reported as ``skipped``, the gradients are as they were, and `attach`
        leaves the optimizer's step out. This waits for the device once a step.

        Returns:
            What ends it.
        """
        self._vetoes.append(judge)
        return lambda: self._vetoes.remove(judge) if judge in self._vetoes else None

    def clip_(self) -> ClipReport:
        """Clip the gradients as they are now, in place, and report.

        Raises:
            NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``; nothing was touched.
            ParameterError: the threshold follows the loss and `observe` was not called.
        """
        return self._step(None)

    @torch.no_grad()
    def _step(self, scale: Tensor | None, fused: bool = False, leave: Tensor | None = None) -> ClipReport:
        """`clip_` of gradients that are multiplied by a scale.

        Where ``fused``, what follows can multiply them by a coefficient, which is then left to it in
        ``self._folded``; and can leave the step out, which is then asked of it in ``self._left_out`` so that
        nothing waits for the device. With a ``leave`` above 0, on the device, all is left as it is.
        """
        if self._needs_loss and not self._losses:
            raise ParameterError(
                "the threshold follows the loss: call clipper.observe(loss) before every step"
            )
        self._folded = self._left_out = None
        told = self._losses[-1] if self._followers and self._losses else None
        try:
            with np.errstate(all="ignore"):  # norms of NaN and Inf are part of the business
                batch = self._gradients.collect()
                report = (
                    in_torch(self._nothing()) if batch is None else self._clip(batch, scale, fused, leave)
                )
        finally:
            self._losses.clear()
        self.steps += 1
        self._skipped_steps = self._skipped_steps + report.skipped
        self._clipped_steps = self._clipped_steps + report.clipped
        self.report = report
        for follower in tuple(self._followers):
            follower(self, report, told)
        return report

    def _clip(self, batch: AnyBatch, scale: Tensor | None, fused: bool, leave: Tensor | None) -> ClipReport:
        gradients = self._gradients
        measure = Measure(batch, gradients.layout, scale)
        xp, names = measure.xp, gradients.names
        self._refuse_sparse(batch, names)
        p = order_of(self._plan.norm)
        if isinstance(self.clip, Clip) and self.clip.per == "unit":
            measure.unit_norms(p)  # the norms of the tensors follow from these: one read for both
        norms = measure.tensor_norms(p)
        bad_count: Array = 0
        if xp is not NUMPY or not math.isfinite(measure.joint(self._plan.norm)):
            bad = ~xp.isfinite(norms)
            bad_count = xp.sum(bad)

        if self._vetoes and self._is_vetoed(measure):
            return in_torch(self._skip(measure), names=names, tensor_norms=norms, nonfinite=bad_count)
        skipped: Array = False
        if leave is not None:
            skipped = measure.leave = array_on(xp, leave) > 0
        elif fused and self.nonfinite == "skip" and xp is not NUMPY:
            self._left_out = skipped = measure.leave = bad_count > 0
        elif self.nonfinite != "propagate" and bool(bad_count):
            if self.nonfinite == "error":
                first = names[int(xp.argmax(xp.astype(bad, xp.int64)))]
                raise NonFiniteError(
                    f"the gradient of {first!r} holds NaN or Inf ({int(bad_count)} tensors in all)"
                )
            if self.nonfinite == "skip":
                return in_torch(self._skip(measure), names=names, tensor_norms=norms, nonfinite=bad_count)
            for gradient, is_bad in zip(measure.tensors, bad.tolist(), strict=True):
                if is_bad:
                    values = values_of(gradient)
                    values.copy_(torch.where(values.isfinite(), values, torch.zeros_like(values)))
            measure.forget()

        before = [values_of(g).clone() for g in measure.tensors] if self.direction else []
        size = measure.joint(2.0) if before else None
        measure.folds = fused and not before and self._plan.folds
        report = self._plan.apply(names, measure, self._facts())
        self._folded = measure.folded
        changes: dict[str, Any] = {"names": names, "tensor_norms": norms, "nonfinite": bad_count}
        if before:
            changes["direction"] = _cosine(before, size, measure)
        if skipped is not False:
            changes |= {"skipped": skipped, "clipped": report.clipped & ~skipped}
        return in_torch(report, **changes)

    def _is_vetoed(self, measure: Measure) -> bool:
        norm = float(measure.joint(self._plan.norm))
        loss = float(self._losses[-1]) if self._losses else None
        said = [judge(self, norm, loss) for judge in tuple(self._vetoes)]  # each hears of each step
        return any(said)

    def _refuse_sparse(self, batch: AnyBatch, names: tuple[str, ...]) -> None:
        """Ask the clips whether they take these sparse gradients, before any of them acts."""
        for place in batch.odd:
            if batch.tensors[place].is_sparse:
                parameter = self.parameters[names[place]]
                for stage in self._plan.stages():
                    if any(parameter is one for one in stage.limit.parameters):
                        stage.refuse_sparse(batch.tensors[place], self._units.way(parameter))

    def _facts(self) -> Facts:
        loss = None
        if self._losses and "loss" in self._sees:
            device = self._losses[0].device
            losses = [one.to(device, wide(device)) for one in self._losses]
            loss = losses[0] if len(losses) == 1 else torch.stack(losses).mean()
        return Facts(step=self.steps, loss=loss)

    def _skip(self, measure: Measure) -> ClipReport:
        xp, facts = measure.xp, self._facts()
        for stage in self._plan.stages():
            stage.limit.listen(xp, facts)  # a loss of NaN is news to the thresholds that follow it
        report = dataclasses.replace(
            untouched(xp, measure.joint(self._plan.norm)),
            norm_after=xp.asarray(0.0),
            threshold=xp.asarray(xp.nan),
            direction=None,
            skipped=True,
        )
        return self._plan.blank(report)

    def _nothing(self) -> ClipReport:
        """The report of a call without any gradient: norm 0, on the parameters' device."""
        xp = namespace_on(next((p.device for p in self.parameters.values()), torch.device("cpu")))
        return self._plan.blank(untouched(xp, xp.asarray(0.0)))

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
        for name in counts:
            if isinstance(state[name], bool) or not isinstance(state[name], int):
                raise StateError(f"{name} must be a whole number, got {state[name]!r}")
        steps, skipped, clipped = (state[name] for name in counts)
        for stage, new in zip(stages, loaded, strict=True):
            if stage.limit.keeper:
                stage.limit.keeper.state = new
        self.steps, self._skipped_steps, self._clipped_steps = steps, skipped, clipped

    def _follow(self, kept: Mapping[str, Tensor], new: Mapping[str, Tensor], model: nn.Module | None) -> None:
        """Go on with these parameters: some of the old ones, and new ones, perhaps of a model."""
        self._units.extend(new, model, later=True)
        ids = {id(parameter) for parameter in kept.values()}
        self._plan.keep(ids)  # counts the units of those that go
        self._units.keep(ids | {id(parameter) for parameter in new.values()})
        self._plan.extend(new)
        self.parameters = {**kept, **new}
        self._gradients = self._source(self.parameters, self._units)

    def _names(self) -> dict[int, str]:
        return {id(parameter): name for name, parameter in self.parameters.items()}


def _cosine(before: list[Tensor], size: Array, measure: Measure) -> Array:
    """The cosine between tensors that had this 2-norm together and what they are now."""
    xp = measure.xp
    sizes = [xp.where((s > 0) & xp.isfinite(s), s, 1.0) for s in (size, measure.joint(2.0))]
    sums = [xp.asarray(0.0) for _ in range(3)]
    for old, new in zip(before, measure.tensors, strict=True):
        found = reference.cosine(old, values_of(new), (tensor_of(sizes[0]), tensor_of(sizes[1])))
        sums = [total + array_on(xp, value) for total, value in zip(sums, found, strict=True)]
    lengths = xp.sqrt(sums[1]) * xp.sqrt(sums[2])
    return xp.where(lengths > 0, sums[0] / lengths, 1.0)
