"""A whole description, `chain` and `by_name` included, laid out over parameters whose arrays are values."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from clipwise.clip import AnyClip, ByName, Chain, Clip, Norm
from clipwise.functional.facts import Facts
from clipwise.functional.measure import Measure
from clipwise.functional.merging import merged, untouched
from clipwise.functional.names import owner_of, refuse_unmatched
from clipwise.functional.slots import Slot
from clipwise.functional.stage import Stage, Step
from clipwise.namespace import Namespace
from clipwise.report import ClipReport

__all__ = ["Plan", "make_plan"]


def make_plan(clip: AnyClip, slots: Sequence[Slot]) -> "Plan":
    """Lay a description out over parameters.

    Raises:
        ParameterError: a pattern of `by_name` matches no parameter.
    """
    if isinstance(clip, Clip):
        return _Single(clip, slots)
    if isinstance(clip, Chain):
        return _Chain(clip, slots)
    return _ByName(clip, slots)


class Plan(ABC):
    """Clips gradients of some slots; holds nothing that changes.

    Attributes:
        norm: how the joint norm is measured that it reports: as by its first clip, or 2 where parts differ.
    """

    norm: Norm

    @abstractmethod
    def init(self, xp: Any) -> Any:
        """The state of all its thresholds before the first step."""

    @abstractmethod
    def apply(self, measure: Measure, weights: Measure | None, state: Any, facts: Facts) -> Step:
        """Clip what is measured: what was done, and the state after it. Without any gradient, nothing."""

    @abstractmethod
    def stages(self) -> Iterator[Stage]:
        """Every single clip, in a fixed order."""

    def blank(self, report: ClipReport) -> ClipReport:
        """The report of a step in which nothing was done, with the parts that it always has."""
        return report

    def sees(self) -> frozenset[str]:
        """What the policies use where it is there."""
        policies = [stage.policy for stage in self.stages()]
        return frozenset().union(*[policy.needs | policy.wants for policy in policies if policy])

    def needs(self) -> frozenset[str]:
        """What the policies must be told."""
        policies = [stage.policy for stage in self.stages()]
        return frozenset().union(*[policy.needs for policy in policies if policy])


class _Single(Plan):
    def __init__(self, clip: Clip, slots: Sequence[Slot]) -> None:
        self.norm = clip.norm
        self.stage = Stage(clip, slots)

    def init(self, xp: Any) -> Any:
        return self.stage.init(xp)

    def apply(self, measure: Measure, weights: Measure | None, state: Any, facts: Facts) -> Step:
        if not measure.present:
            return _nothing(measure.xp), state
        return self.stage.apply(measure, weights, state, facts)

    def stages(self) -> Iterator[Stage]:
        yield self.stage


class _Chain(Plan):
    def __init__(self, clip: Chain, slots: Sequence[Slot]) -> None:
        self.plans = [make_plan(part, slots) for part in clip.clips]
        self.norm = self.plans[0].norm

    def init(self, xp: Any) -> Any:
        return tuple(plan.init(xp) for plan in self.plans)

    def apply(self, measure: Measure, weights: Measure | None, state: Any, facts: Facts) -> Step:
        steps = [
            plan.apply(measure, weights, own, facts) for plan, own in zip(self.plans, state, strict=True)
        ]
        reports = {str(place): report for place, (report, _) in enumerate(steps)}
        first, last = steps[0][0], steps[-1][0]
        same = self.plans[-1].norm == self.norm or not measure.present
        norm_after = last.norm_after if same else measure.joint(self.norm)
        report = merged(measure.xp, reports, first.norm, norm_after)
        return report, tuple(state for _, state in steps)

    def stages(self) -> Iterator[Stage]:
        for plan in self.plans:
            yield from plan.stages()

    def blank(self, report: ClipReport) -> ClipReport:
        parts = {str(place): plan.blank(report) for place, plan in enumerate(self.plans)}
        return dataclasses.replace(report, parts=parts)


class _ByName(Plan):
    def __init__(self, clip: ByName, slots: Sequence[Slot]) -> None:
        refuse_unmatched(clip, [slot.name for slot in slots])
        owners = [owner_of(clip, slot.name) for slot in slots]
        self.places = {
            pattern: [place for place, owner in enumerate(owners) if owner == pattern]
            for pattern, part in clip.parts
            if part is not None
        }
        self.plans = {
            pattern: make_plan(part, [slots[i] for i in self.places[pattern]])
            for pattern, part in clip.parts
            if part is not None
        }
        norms = {plan.norm for plan in self.plans.values()}
        self.norm = norms.pop() if len(norms) == 1 else 2.0

    def init(self, xp: Any) -> Any:
        return tuple(plan.init(xp) for plan in self.plans.values())

    def apply(self, measure: Measure, weights: Measure | None, state: Any, facts: Facts) -> Step:
        if not measure.present:
            return self.blank(_nothing(measure.xp)), state
        norm = measure.joint(self.norm)
        arrays, states = measure.full(), []
        reports: dict[str, ClipReport] = {}
        shares: list[float] = []
        for (pattern, plan), own in zip(self.plans.items(), state, strict=True):
            places = self.places[pattern]
            part = measure.part(places)
            report, own = plan.apply(part, weights.part(places) if weights else None, own, facts)
            reports[pattern] = report
            states.append(own)
            shares.append(len(part.present) / len(measure.present))
            for place, array in zip(places, part.full(), strict=True):
                arrays[place] = array
        measure.replace([array for array in arrays if array is not None])
        if not reports:
            return untouched(measure.xp, norm), ()
        report = merged(measure.xp, reports, norm, measure.joint(self.norm), shares)
        return report, tuple(states)

    def stages(self) -> Iterator[Stage]:
        for plan in self.plans.values():
            yield from plan.stages()

    def blank(self, report: ClipReport) -> ClipReport:
        parts = {pattern: plan.blank(report) for pattern, plan in self.plans.items()}
        return dataclasses.replace(report, parts=parts)


def _nothing(xp: Namespace) -> ClipReport:
    """The report of a step without any gradient: norm 0."""
    return untouched(xp, xp.zeros(()))
