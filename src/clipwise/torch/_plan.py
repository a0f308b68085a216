"""A whole description, `chain` and `by_name` included, laid out over the parameters of a model."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from clipwise.clip import AnyClip, ByName, Chain, Clip, Norm
from clipwise.errors import ParameterError, did_you_mean
from clipwise.report import ClipReport
from clipwise.torch._element_stage import ElementStage
from clipwise.torch._limit import Facts
from clipwise.torch._measure import Measure
from clipwise.torch._stage import GlobalStage, GroupStage, Stage, untouched

__all__ = ["Plan", "make_plan"]

Gradients = Mapping[str, Tensor]

STAGES: dict[str, type[GlobalStage | GroupStage | ElementStage]] = {
    "element": ElementStage,
    "unit": GroupStage,
    "tensor": GroupStage,
    "global": GlobalStage,
}


def make_plan(clip: AnyClip, parameters: Mapping[str, Tensor], embeddings: set[int]) -> "Plan":
    """Lay a description out over parameters by name.

    Raises:
        ParameterError: a pattern of `by_name` matches no parameter.
        ThresholdError: a range for complex parameters.
    """
    if isinstance(clip, Clip):
        return _Single(clip, parameters, embeddings)
    if isinstance(clip, Chain):
        return _Chain(clip, parameters, embeddings)
    return _ByName(clip, parameters, embeddings)


class Plan(ABC):
    """Clips the gradients it is given, all of them of parameters it knows.

    Attributes:
        norm: how the joint norm is measured that it reports: as by its first clip, or 2 where parts differ.
    """

    norm: Norm

    @abstractmethod
    def apply(self, gradients: Gradients, measure: Measure, facts: Facts) -> ClipReport:
        """Clip in place; ``measure`` is of these gradients as they are now."""

    @abstractmethod
    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        """Take in parameters that came later."""

    @abstractmethod
    def stages(self) -> Iterator[Stage]:
        """Every single clip, in a fixed order."""

    def blank(self, report: ClipReport) -> ClipReport:
        """The report of a step in which nothing was done, with the parts that it always has."""
        return report

    def needs(self) -> frozenset[str]:
        """What the policies must be told."""
        policies = [stage.limit.policy for stage in self.stages()]
        return frozenset().union(*[policy.needs for policy in policies if policy])


class _Single(Plan):
    def __init__(self, clip: Clip, parameters: Mapping[str, Tensor], embeddings: set[int]) -> None:
        self.norm = clip.norm
        self.places = {name: place for place, name in enumerate(parameters)}
        self.stage = STAGES[clip.per](clip, list(parameters.values()), embeddings)

    def apply(self, gradients: Gradients, measure: Measure, facts: Facts) -> ClipReport:
        return self.stage.apply(measure, [self.places[name] for name in gradients], facts)

    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        for place, name in enumerate(parameters, start=len(self.stage.limit.parameters)):
            self.places[name] = place
        self.stage.limit.extend(list(parameters.values()))

    def stages(self) -> Iterator[Stage]:
        yield self.stage


class _Chain(Plan):
    def __init__(self, clip: Chain, parameters: Mapping[str, Tensor], embeddings: set[int]) -> None:
        self.plans = [make_plan(part, parameters, embeddings) for part in clip.clips]
        self.norm = self.plans[0].norm

    def apply(self, gradients: Gradients, measure: Measure, facts: Facts) -> ClipReport:
        reports: list[ClipReport] = []
        for plan in self.plans:
            reports.append(plan.apply(gradients, measure, facts))
            measure = measure.again()  # changed since
        same = self.plans[-1].norm == self.norm
        return ClipReport(
            norm=reports[0].norm,
            norm_after=reports[-1].norm_after if same else measure.joint(self.norm),
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

    def blank(self, report: ClipReport) -> ClipReport:
        parts = {str(place): plan.blank(report) for place, plan in enumerate(self.plans)}
        return dataclasses.replace(report, parts=parts)


class _ByName(Plan):
    def __init__(self, clip: ByName, parameters: Mapping[str, Tensor], embeddings: set[int]) -> None:
        self.clip = clip
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
        norms = {plan.norm for plan in self.plans.values()}
        self.norm = norms.pop() if len(norms) == 1 else 2.0

    def _share(self, parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        shares: dict[str, dict[str, Tensor]] = {pattern: {} for pattern, _ in self.clip.parts}
        for name, parameter in parameters.items():
            pattern = next((p for p, _ in self.clip.parts if fnmatchcase(name, p)), None)
            if pattern is not None:
                shares[pattern][name] = parameter
                self.owner[name] = pattern
        return shares

    def apply(self, gradients: Gradients, measure: Measure, facts: Facts) -> ClipReport:
        norm = measure.joint(self.norm)
        names = list(gradients)
        reports: dict[str, ClipReport] = {}
        fractions = []
        for pattern, plan in self.plans.items():
            places = [i for i, name in enumerate(names) if self.owner.get(name) == pattern]
            if not places:
                reports[pattern] = plan.blank(untouched(torch.zeros_like(norm)))
                continue
            part = measure.part(places)
            own = dict(zip([names[i] for i in places], part.gradients, strict=True))
            reports[pattern] = plan.apply(own, part, facts)
            fractions.append(reports[pattern].clip_fraction * (len(own) / len(names)))
        if not fractions:
            return dataclasses.replace(untouched(norm), parts=reports)
        parts = list(reports.values())
        return ClipReport(
            norm=norm,
            norm_after=measure.again().joint(self.norm),
            threshold=torch.stack([r.threshold for r in parts]).min(),
            clipped=torch.stack([r.clipped for r in parts]).any(),
            clip_fraction=torch.stack(fractions).sum(),
            parts=reports,
        )

    def extend(self, parameters: Mapping[str, Tensor]) -> None:
        for pattern, share in self._share(parameters).items():
            if share and pattern in self.plans:
                self.plans[pattern].extend(share)

    def stages(self) -> Iterator[Stage]:
        for plan in self.plans.values():
            yield from plan.stages()

    def blank(self, report: ClipReport) -> ClipReport:
        parts = {pattern: plan.blank(report) for pattern, plan in self.plans.items()}
        return dataclasses.replace(report, parts=parts)


def _no_match(pattern: str, names: Sequence[str]) -> str:
    unnamed = all(name.rpartition(".")[2].isdigit() for name in names)
    hint = (
        "the parameters have no names here: give model=..., or model.named_parameters()"
        if unnamed
        else did_you_mean(pattern, names)
    )
    return f"by_name: the pattern {pattern!r} matches no parameter; {hint}"
