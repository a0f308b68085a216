"""A whole description, `chain` and `by_name` included, laid out over the parameters of a model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from clipwise.clip import AnyClip, ByName, Chain, Clip
from clipwise.errors import ParameterError, did_you_mean
from clipwise.report import ClipReport
from clipwise.torch._measure import Measure
from clipwise.torch._stage import Facts, Stage, order_of

__all__ = ["Plan", "make_plan", "root_order"]

Gradients = Mapping[str, Tensor]


def root_order(clip: AnyClip) -> float:
    """The order of the joint norm that is reported: that of the first clip, or 2 where parts differ."""
    if isinstance(clip, Clip):
        return order_of(clip)
    if isinstance(clip, Chain):
        return root_order(clip.clips[0])
    orders = {root_order(part) for _, part in clip.parts if part is not None}
    return orders.pop() if len(orders) == 1 else 2.0


def make_plan(clip: AnyClip, parameters: Mapping[str, Tensor], embeddings: set[int]) -> "Plan":
    """Lay a description out over parameters by name.

    Raises:
        ParameterError: a pattern of `by_name` matches no parameter.
    """
    if isinstance(clip, Clip):
        return _Single(clip, parameters, embeddings)
    if isinstance(clip, Chain):
        return _Chain(clip, parameters, embeddings)
    return _ByName(clip, parameters, embeddings)


class Plan(ABC):
    """Clips the gradients it is given, all of them of parameters it knows."""

    p: float

    @abstractmethod
    def apply(self, gradients: Gradients, measure: Measure, facts: Facts) -> ClipReport:
        """Clip in place; ``measure`` is of these gradients as they are now."""

    @abstractmethod
    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        """Take in parameters that came later."""

    @abstractmethod
    def stages(self) -> Iterator[Stage]:
        """Every single clip, in a fixed order."""

    def needs(self) -> frozenset[str]:
        """What the policies must be told."""
        return frozenset().union(*[s.policy.needs for s in self.stages() if s.policy])


class _Single(Plan):
    def __init__(self, clip: Clip, parameters: Mapping[str, Tensor], embeddings: set[int]) -> None:
        self.p = order_of(clip)
        self.places = {name: place for place, name in enumerate(parameters)}
        self.stage = Stage(clip, list(parameters.values()), embeddings)

    def apply(self, gradients: Gradients, measure: Measure, facts: Facts) -> ClipReport:
        outcome = self.stage.apply(measure, [self.places[name] for name in gradients], facts)
        return ClipReport(
            norm=outcome.norm,
            norm_after=outcome.norm_after,
            threshold=outcome.threshold,
            clipped=outcome.clipped,
            clip_fraction=outcome.clip_fraction,
            direction=outcome.direction,
        )

    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        for name in parameters:
            self.places[name] = len(self.places)
        self.stage.extend(list(parameters.values()))

    def stages(self) -> Iterator[Stage]:
        yield self.stage


class _Chain(Plan):
    def __init__(self, clip: Chain, parameters: Mapping[str, Tensor], embeddings: set[int]) -> None:
        self.plans = [make_plan(part, parameters, embeddings) for part in clip.clips]
        self.p = self.plans[0].p

    def apply(self, gradients: Gradients, measure: Measure, facts: Facts) -> ClipReport:
        reports: list[ClipReport] = []
        for plan in self.plans:
            reports.append(plan.apply(gradients, measure, facts))
            measure = Measure(measure.gradients)  # changed since
        same = self.plans[-1].p == self.p
        after = reports[-1].norm_after if same else Measure(measure.gradients).total(self.p)
        return ClipReport(
            norm=reports[0].norm,
            norm_after=after,
            threshold=torch.stack([r.threshold for r in reports]).min(),
            clipped=torch.stack([r.clipped for r in reports]).any(),
            clip_fraction=torch.stack([r.clip_fraction for r in reports]).max(),
            parts={str(place): report for place, report in enumerate(reports)},
        )

    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        for plan in self.plans:
            plan.extend(parameters)

    def stages(self) -> Iterator[Stage]:
        for plan in self.plans:
            yield from plan.stages()


class _ByName(Plan):
    def __init__(self, clip: ByName, parameters: Mapping[str, Tensor], embeddings: set[int]) -> None:
        self.clip = clip
        self.p = root_order(clip)
        self.owner: dict[str, str] = {}
        for pattern, _ in clip.parts:
            if parameters and not any(fnmatchcase(name, pattern) for name in parameters):
                raise ParameterError(_no_match(pattern, list(parameters)))
        shares = self._share(parameters)
        self.plans = {
            pattern: make_plan(part, shares[pattern], embeddings)
            for pattern, part in clip.parts
            if part is not None
        }

    def _share(self, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        shares: dict[str, dict[str, Tensor]] = {pattern: {} for pattern, _ in self.clip.parts}
        for name, parameter in parameters.items():
            pattern = next((p for p, _ in self.clip.parts if fnmatchcase(name, p)), None)
            if pattern is not None:
                shares[pattern][name] = parameter
                self.owner[name] = pattern
        return shares

    def apply(self, gradients: Gradients, measure: Measure, facts: Facts) -> ClipReport:
        norm = measure.total(self.p)
        reports: dict[str, ClipReport] = {}
        weights: list[int] = []
        for pattern, plan in self.plans.items():
            places = [i for i, name in enumerate(gradients) if self.owner.get(name) == pattern]
            if places:
                part = measure.part(places)
                names = list(gradients)
                own = {names[i]: gradient for i, gradient in zip(places, part.gradients, strict=True)}
                reports[pattern] = plan.apply(own, part, facts)
                weights.append(len(own))
        if not reports:
            return _untouched(norm)
        parts = list(reports.values())
        device, dtype = measure.device, measure.dtype
        fractions = torch.stack([r.clip_fraction.to(device, dtype) for r in parts])
        return ClipReport(
            norm=norm,
            norm_after=Measure(measure.gradients).total(self.p),
            threshold=torch.stack([r.threshold.to(device, dtype) for r in parts]).min(),
            clipped=torch.stack([r.clipped.to(device) for r in parts]).any(),
            clip_fraction=(fractions * fractions.new_tensor(weights)).sum() / len(gradients),
            parts=reports,
        )

    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        for pattern, share in self._share(parameters).items():
            if pattern in self.plans:
                self.plans[pattern].extend(share)

    def stages(self) -> Iterator[Stage]:
        for plan in self.plans.values():
            yield from plan.stages()


def _untouched(norm: Tensor) -> ClipReport:
    return ClipReport(
        norm=norm,
        norm_after=norm,
        threshold=torch.full_like(norm, torch.inf),
        clipped=torch.zeros_like(norm, dtype=torch.bool),
        clip_fraction=torch.zeros_like(norm),
        direction=torch.ones_like(norm),
    )


def _no_match(pattern: str, names: Sequence[str]) -> str:
    unnamed = all(name.rpartition(".")[2].isdigit() for name in names)
    hint = (
        "the parameters have no names here: give model=..., or model.named_parameters()"
        if unnamed
        else did_you_mean(pattern, names)
    )
    return f"by_name: the pattern {pattern!r} matches no parameter; {hint}"
