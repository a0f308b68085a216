"""A whole clip, including `chain` and `by_name`, laid out over parameters."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from clipwise.clip import AnyClip, ByName, Chain, Clip, Norm
from clipwise.functional.context import StepContext
from clipwise.functional.held import held_by_none
from clipwise.functional.layout import Places
from clipwise.functional.measure import Measure
from clipwise.functional.merging import merged, untouched
from clipwise.functional.names import owner_of, refuse_unmatched
from clipwise.functional.skip_stage import LossSkipStage, SkipStage
from clipwise.functional.slots import Slot
from clipwise.functional.stage import Stage, Step, make_stage
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["Plan", "make_plan"]


def make_plan(clip: AnyClip, slots: Sequence[Slot], *, later: bool = False) -> "Plan":
    """Lay a clip out over parameters.

    Args:
        clip: the clip.
        slots: the parameters, in the order of the state.
        later: the parameters have changed since the first plan, so a pattern may match none of them now.

    Raises:
        ParameterError: a pattern of `by_name` matches no parameter.
    """
    if any(slot.normalised for slot in slots):
        return _OfSome(clip, slots, later)
    return _of_all(clip, slots, later)


def _of_all(clip: AnyClip, slots: Sequence[Slot], later: bool) -> "Plan":
    if isinstance(clip, Clip):
        return _Single(clip, slots)
    if isinstance(clip, Chain):
        return _Chain(clip, slots, later)
    return _ByName(clip, slots, later)


class Plan(ABC):
    """Clips the gradients of some slots; immutable.

    Attributes:
        norm: the norm of the reported joint norm: that of its first clip, or 2 if parts differ.
        folds: whether it only multiplies everything by one coefficient.
        by_unit: whether it only acts per unit, and tensor norms follow from those of the units.
        leaves_out: whether a clip in it may skip the step.
        plans: the plans of its parts, in the order of their states.
    """

    norm: Norm
    folds: bool = False
    by_unit: bool = False
    leaves_out: bool = False
    plans: Sequence["Plan"] = ()

    def apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        """Clip the measured gradients; return what was done and the next state."""
        if not measure.layout.present:
            return self.blank(untouched(measure.xp, measure.xp.zeros(()))), state
        return self._apply(measure, weights, state, context)

    @abstractmethod
    def _apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        """`apply` to at least one array."""

    def init(self, xp: Any) -> Any:
        """The state of all its thresholds before the first step."""
        return tuple(plan.init(xp) for plan in self.plans)

    def stages(self) -> Iterator[Stage]:
        """Every single clip, in a fixed order."""
        for plan in self.plans:
            yield from plan.stages()

    def states(self, state: Any) -> Iterator[Any]:
        """The state of each of its `stages`."""
        for plan, own in zip(self.plans, state, strict=True):
            yield from plan.states(own)

    def joined(self, states: Iterator[Any]) -> Any:
        """The state from those of its `stages`, in their order."""
        return tuple(plan.joined(states) for plan in self.plans)

    def judge(
        self, measure: Measure, weights: Measure | None, state: Any, context: StepContext
    ) -> Array | None:
        """Whether a clip with ``action="skip"`` skips this step, 0-d; None if there is no such clip."""
        found: Array | None = None
        if not self.leaves_out:
            return found
        for stage, own in zip(self.stages(), self.states(state), strict=True):
            if isinstance(stage, SkipStage):
                left = stage.judge(measure, weights, own, context)
                found = left if found is None else found | left
        return found

    @abstractmethod
    def blank(self, report: ClipReport) -> ClipReport:
        """The report of a step without clipping, with all parts that a report has."""

    def needs(self) -> frozenset[str]:
        """The fields of `Observation` that the policies need."""
        return frozenset().union(*[stage.thresholds.needs for stage in self.stages()])

    def sees(self) -> frozenset[str]:
        """The fields of `Observation` that the policies use if they are given."""
        return frozenset().union(*[stage.thresholds.sees for stage in self.stages()])

    def needs_all(self) -> bool:
        """Whether the clipping of one gradient depends on the others."""
        return "global_norm" in self.sees() or any(stage.clip.per == "global" for stage in self.stages())


class _Single(Plan):
    def __init__(self, clip: Clip, slots: Sequence[Slot]) -> None:
        self.norm = clip.norm
        self.folds = clip.per == "global" and clip.on == "norm"
        self.by_unit = clip.per == "unit"
        self.leaves_out = clip.action == "skip"
        make = make_stage
        if self.leaves_out:
            make = SkipStage if clip.on == "norm" else LossSkipStage
        self.stage: Stage = make(clip, slots)

    def init(self, xp: Any) -> Any:
        return self.stage.init(xp)

    def _apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        return self.stage.apply(measure, weights, state, context)

    def stages(self) -> Iterator[Stage]:
        yield self.stage

    def states(self, state: Any) -> Iterator[Any]:
        yield state

    def joined(self, states: Iterator[Any]) -> Any:
        return next(states)

    def blank(self, report: ClipReport) -> ClipReport:
        nothing = dict.fromkeys(self.stage.thresholds.reasons, report.clip_fraction)
        return dataclasses.replace(report, held=nothing)


class _Chain(Plan):
    def __init__(self, clip: Chain, slots: Sequence[Slot], later: bool) -> None:
        self.plans = [_of_all(part, slots, later) for part in clip.clips]
        stages = list(self.stages())
        if any(stage.thresholds.reasons for stage in stages):
            for stage in stages:
                stage.thresholds.as_ceiling()
        self.norm = self.plans[0].norm
        self.by_unit = len(self.plans) == 1 and self.plans[0].by_unit
        self.leaves_out = any(plan.leaves_out for plan in self.plans)

    def _apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        pairs = zip(self.plans, state, strict=True)
        steps = [plan.apply(measure, weights, own, context) for plan, own in pairs]
        reports = {str(place): report for place, (report, _) in enumerate(steps)}
        first, last = steps[0][0], steps[-1][0]
        norm_after = last.norm_after if self.plans[-1].norm == self.norm else measure.joint(self.norm)
        report = merged(measure.xp, reports, first.norm, norm_after)
        return report, tuple(state for _, state in steps)

    def blank(self, report: ClipReport) -> ClipReport:
        return _blank_whole(report, {str(place): plan.blank(report) for place, plan in enumerate(self.plans)})


class _ByName(Plan):
    def __init__(self, clip: ByName, slots: Sequence[Slot], later: bool) -> None:
        if not later:
            refuse_unmatched([pattern for pattern, _ in clip.parts], [slot.known_as for slot in slots])
        owners = [owner_of(clip, slot.known_as) for slot in slots]

        def of(pattern: str) -> Places:
            return tuple(place for place, owner in enumerate(owners) if owner == pattern)

        parts = [(pattern, part, of(pattern)) for pattern, part in clip.parts if part is not None]
        self.patterns = [pattern for pattern, _, _ in parts]
        self.plans = [_of_all(part, [slots[i] for i in own], later) for _, part, own in parts]
        taken = {place for _, _, own in parts for place in own}
        left = tuple(place for place in range(len(slots)) if place not in taken)
        self.shares = (*(own for _, _, own in parts), left)
        self.by_unit = len(self.plans) == 1 and not left and self.plans[0].by_unit
        norms = {plan.norm for plan in self.plans}
        self.norm = norms.pop() if len(norms) == 1 else 2.0

    def _apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        norm = measure.joint(self.norm)
        parts = [measure.part(share) for share in self.shares]
        reports: dict[str, ClipReport] = {}
        states = []
        for place, (pattern, plan) in enumerate(zip(self.patterns, self.plans, strict=True)):
            own = weights.part(self.shares[place]) if weights is not None else None
            reports[pattern], after = plan.apply(parts[place], own, state[place], context)
            states.append(after)
        measure.join(parts, self.shares, self.norm)
        shares = [len(part.layout.present) / len(measure.layout.present) for part in parts[:-1]]
        if not any(shares):
            return _blank_whole(untouched(measure.xp, norm), reports), tuple(states)
        report = merged(measure.xp, reports, norm, measure.joint(self.norm), shares)
        return report, tuple(states)

    def blank(self, report: ClipReport) -> ClipReport:
        pairs = zip(self.patterns, self.plans, strict=True)
        return _blank_whole(report, {pattern: plan.blank(report) for pattern, plan in pairs})


class _OfSome(Plan):
    """A plan of the parameters whose gradients have a size: the others enter no norm and are left alone.

    NaN and Inf are looked for in all of them.
    """

    def __init__(self, clip: AnyClip, slots: Sequence[Slot], later: bool) -> None:
        own = tuple(place for place, slot in enumerate(slots) if not slot.normalised)
        left = tuple(place for place, slot in enumerate(slots) if slot.normalised)
        self.shares = (own, left)
        self._left = frozenset(left)
        _of_all(clip, slots, later)  # a pattern may match only what is left alone, but it has to match
        self.plans = [_of_all(clip, [slots[i] for i in own], True)]
        self.norm, self.leaves_out = self.plans[0].norm, self.plans[0].leaves_out

    def judge(
        self, measure: Measure, weights: Measure | None, state: Any, context: StepContext
    ) -> Array | None:
        own = measure.part(self.shares[0])
        if not self.leaves_out or not own.layout.present:
            return None
        found = self.plans[0].judge(own, self._of(weights), state[0], context)
        measure.judged.update(own.judged)
        return found

    def _apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        own, rest = (measure.part(share) for share in self.shares)
        own.judged.update(measure.judged)
        report, after = self.plans[0].apply(own, self._of(weights), state[0], context)
        measure.join([own, rest], self.shares, self.norm)
        count = len(self._left.intersection(measure.layout.present))
        return dataclasses.replace(report, normalised=count), (after,)

    def _of(self, weights: Measure | None) -> Measure | None:
        return None if weights is None else weights.part(self.shares[0])

    def blank(self, report: ClipReport) -> ClipReport:
        return self.plans[0].blank(report)


def _blank_whole(report: ClipReport, parts: Mapping[str, ClipReport]) -> ClipReport:
    """The report of a whole, of whose parts none did anything."""
    held = held_by_none(list(parts.values()), report.clip_fraction)
    return dataclasses.replace(report, parts=parts, held=held)
