"""A whole description, `chain` and `by_name` included, laid out over the parameters of a model."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from clipwise.clip import AnyClip, ByName, Chain, Clip, Norm
from clipwise.functional.facts import Facts
from clipwise.functional.merging import merged, untouched
from clipwise.functional.names import owner_of, refuse_unmatched
from clipwise.namespace import Array, Namespace
from clipwise.report import ClipReport
from clipwise.torch._element_stage import ElementStage
from clipwise.torch._measure import Measure
from clipwise.torch._stage import GlobalStage, GroupStage, Stage
from clipwise.torch._units import Units

__all__ = ["Plan", "make_plan"]

Names = tuple[str, ...]

STAGES: dict[str, type[GlobalStage | GroupStage | ElementStage]] = {
    "element": ElementStage,
    "unit": GroupStage,
    "tensor": GroupStage,
    "global": GlobalStage,
}


def make_plan(clip: AnyClip, parameters: Mapping[str, Tensor], embeddings: set[int], units: Units) -> "Plan":
    """Lay a description out over parameters by name.

    Raises:
        ParameterError: a pattern of `by_name` matches no parameter.
        ThresholdError: a range for complex parameters.
    """
    if isinstance(clip, Clip):
        return _Single(clip, parameters, embeddings, units)
    if isinstance(clip, Chain):
        return _Chain(clip, parameters, embeddings, units)
    return _ByName(clip, parameters, embeddings, units)


class Plan(ABC):
    """Clips the gradients it is given, all of them of parameters it knows.

    Attributes:
        norm: how the joint norm is measured that it reports: as by its first clip, or 2 where parts differ.
        folds: all that it does is to multiply everything by one coefficient.
    """

    norm: Norm
    folds: bool = False

    @abstractmethod
    def apply(self, names: Names, measure: Measure, facts: Facts) -> ClipReport:
        """Clip in place the gradients of the parameters with these names, at least one.

        Args:
            names: what is the same for the same names is kept while the same tuple comes.
            measure: of these gradients as they are now; it stays true.
            facts: what the policies may know.
        """

    @abstractmethod
    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        """Take in parameters that came later."""

    @abstractmethod
    def keep(self, ids: set[int]) -> None:
        """Let go of all parameters but these."""

    @abstractmethod
    def stages(self) -> Iterator[Stage]:
        """Every single clip, in a fixed order."""

    def blank(self, report: ClipReport) -> ClipReport:
        """The report of a step in which nothing was done, with the parts that it always has."""
        return report

    def needs_all(self) -> bool:
        """Whether what happens to one gradient depends on the others."""
        return "global_norm" in self.sees() or any(stage.clip.per == "global" for stage in self.stages())

    def sees(self) -> frozenset[str]:
        """What the policies use where it is there."""
        policies = [stage.limit.policy for stage in self.stages()]
        return frozenset().union(*[policy.needs | policy.wants for policy in policies if policy])

    def needs(self) -> frozenset[str]:
        """What the policies must be told."""
        policies = [stage.limit.policy for stage in self.stages()]
        return frozenset().union(*[policy.needs for policy in policies if policy])


class _Single(Plan):
    def __init__(
        self, clip: Clip, parameters: Mapping[str, Tensor], embeddings: set[int], units: Units
    ) -> None:
        self.norm = clip.norm
        self.folds = clip.per == "global"
        self.places = {name: place for place, name in enumerate(parameters)}
        self.stage = STAGES[clip.per](clip, list(parameters.values()), embeddings, units)
        self._known: tuple[Names, tuple[int, ...]] = ((), ())

    def apply(self, names: Names, measure: Measure, facts: Facts) -> ClipReport:
        if names is not self._known[0]:
            self._known = (names, tuple(self.places[name] for name in names))
        return self.stage.apply(measure, self._known[1], facts)

    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        for place, name in enumerate(parameters, start=len(self.stage.limit.parameters)):
            self.places[name] = place
        self.stage.limit.extend(list(parameters.values()))

    def keep(self, ids: set[int]) -> None:
        names = [n for n, p in zip(self.places, self.stage.limit.parameters, strict=True) if id(p) in ids]
        self.places = {name: place for place, name in enumerate(names)}
        self.stage.limit.keep(ids)

    def stages(self) -> Iterator[Stage]:
        yield self.stage


class _Chain(Plan):
    def __init__(
        self, clip: Chain, parameters: Mapping[str, Tensor], embeddings: set[int], units: Units
    ) -> None:
        self.plans = [make_plan(part, parameters, embeddings, units) for part in clip.clips]
        self.norm = self.plans[0].norm

    def apply(self, names: Names, measure: Measure, facts: Facts) -> ClipReport:
        reports = [plan.apply(names, measure, facts) for plan in self.plans]
        same = self.plans[-1].norm == self.norm
        norm_after = reports[-1].norm_after if same else measure.joint(self.norm)
        parts = {str(place): report for place, report in enumerate(reports)}
        return merged(measure.xp, parts, reports[0].norm, norm_after)

    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        for plan in self.plans:
            plan.extend(parameters)

    def keep(self, ids: set[int]) -> None:
        for plan in self.plans:
            plan.keep(ids)

    def stages(self) -> Iterator[Stage]:
        for plan in self.plans:
            yield from plan.stages()

    def blank(self, report: ClipReport) -> ClipReport:
        parts = {str(place): plan.blank(report) for place, plan in enumerate(self.plans)}
        return dataclasses.replace(report, parts=parts)


class _ByName(Plan):
    def __init__(
        self, clip: ByName, parameters: Mapping[str, Tensor], embeddings: set[int], units: Units
    ) -> None:
        self.clip = clip
        self.owner: dict[str, str] = {}
        refuse_unmatched(clip, parameters)
        shares = self._share(parameters)
        self.plans = {
            pattern: make_plan(part, shares[pattern], embeddings, units)
            for pattern, part in clip.parts
            if part is not None
        }
        norms = {plan.norm for plan in self.plans.values()}
        self.norm = norms.pop() if len(norms) == 1 else 2.0
        self._known: _Split | None = None

    def _share(self, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        shares: dict[str, dict[str, Tensor]] = {pattern: {} for pattern, _ in self.clip.parts}
        for name, parameter in parameters.items():
            pattern = owner_of(self.clip, name)
            if pattern is not None:
                shares[pattern][name] = parameter
                self.owner[name] = pattern
        return shares

    def apply(self, names: Names, measure: Measure, facts: Facts) -> ClipReport:
        xp = measure.xp
        known = self._known
        if known is None or known.layout is not measure.layout or names is not known.names:
            known = self._known = _Split(names, [self.owner.get(name) for name in names], measure)
        norm = measure.joint(self.norm)
        reports: dict[str, ClipReport] = {}
        parts = {share.pattern: share.of(measure) for share in known.shares}
        for pattern, plan in self.plans.items():
            share = known.share_of(pattern)
            if share is None:
                reports[pattern] = plan.blank(untouched(xp, xp.zeros(())))
            else:
                reports[pattern] = plan.apply(share.names, parts[pattern], facts)
        measure.join(list(parts.values()), known.order, self.norm)
        sizes = {share.pattern: len(share.names) / len(names) for share in known.shares}
        shares = [sizes.get(pattern, 0.0) for pattern in reports]
        if not any(shares):
            return dataclasses.replace(untouched(xp, norm), parts=reports)
        return merged(xp, reports, norm, measure.joint(self.norm), shares)

    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        for pattern, share in self._share(parameters).items():
            if share and pattern in self.plans:
                self.plans[pattern].extend(share)

    def keep(self, ids: set[int]) -> None:
        for plan in self.plans.values():
            plan.keep(ids)

    def stages(self) -> Iterator[Stage]:
        for plan in self.plans.values():
            yield from plan.stages()

    def blank(self, report: ClipReport) -> ClipReport:
        parts = {pattern: plan.blank(report) for pattern, plan in self.plans.items()}
        return dataclasses.replace(report, parts=parts)


class _Share:
    """The gradients that belong to one pattern, or to none.

    Args:
        pattern: whose they are.
        places: where they are among all.
        names: of all.
        measure: of all.
    """

    def __init__(self, pattern: str | None, places: list[int], names: Names, measure: Measure) -> None:
        self.pattern = pattern
        self.places = places
        self.names = tuple(names[i] for i in places)
        self._index = _index(measure.xp, places)
        self._layout = measure.layout.some(measure.tensors, places)

    def of(self, measure: Measure) -> Measure:
        return measure.part(self.places, self._index, self._layout)


class _Split:
    """How some gradients are shared out by pattern.

    Args:
        names: of the gradients.
        owners: the pattern that each belongs to.
        measure: of the gradients.
    """

    def __init__(self, names: Names, owners: Sequence[str | None], measure: Measure) -> None:
        self.names = names
        self.layout = measure.layout
        by_owner: dict[str | None, list[int]] = {}
        for place, owner in enumerate(owners):
            by_owner.setdefault(owner, []).append(place)
        self.shares = [_Share(owner, places, names, measure) for owner, places in by_owner.items()]
        joined = [place for share in self.shares for place in share.places]
        self.order = _index(measure.xp, sorted(range(len(joined)), key=joined.__getitem__))

    def share_of(self, pattern: str) -> _Share | None:
        return next((share for share in self.shares if share.pattern == pattern), None)


def _index(xp: Namespace, places: Sequence[int]) -> Array:
    return xp.asarray(list(places), dtype=xp.int64)
