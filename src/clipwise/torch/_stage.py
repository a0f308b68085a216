"""One `Clip` at work: measure the groups, ask for the threshold, scale what is above it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from clipwise.clip import Clip, Per
from clipwise.report import ClipReport
from clipwise.torch._limit import Facts, Limit
from clipwise.torch._measure import Measure, rms_size, values_of
from clipwise.torch.engines import reference as engine

__all__ = ["GlobalStage", "GroupStage", "Stage", "untouched"]


class Stage(ABC):
    """One clip on a list of parameters.

    Args:
        clip: what to do.
        parameters: all that it may ever see, in a fixed order.
        embeddings: ids of weights that say little about how far a step may go.
    """

    def __init__(self, clip: Clip, parameters: Sequence[Tensor], embeddings: set[int]) -> None:
        self.clip = clip
        self.limit = Limit(clip, parameters, embeddings)

    @abstractmethod
    def apply(self, measure: Measure, present: Sequence[int], facts: Facts) -> ClipReport:
        """Clip the measured gradients in place: those of the parameters at the places ``present``."""


class GlobalStage(Stage):
    """One norm over everything."""

    def apply(self, measure: Measure, present: Sequence[int], facts: Facts) -> ClipReport:
        norm = measure.joint(self.clip.norm)
        threshold = self.limit.of(facts, norm, norm, present)
        coefficient = _coefficient(norm, threshold)
        # Off the CPU a branch would wait for the device; a coefficient of 1 changes nothing.
        if measure.device.type != "cpu" or coefficient.item() != 1.0:
            for gradient in measure.gradients:
                engine.scale_(values_of(gradient), coefficient)
        clipped = norm > threshold
        return ClipReport(
            norm=norm,
            norm_after=_after(norm, threshold),
            threshold=threshold,
            clipped=clipped,
            clip_fraction=clipped.to(measure.dtype),
            direction=torch.where(norm.isfinite(), 1.0, torch.nan),
        )


class GroupStage(Stage):
    """A norm for each tensor, or for each unit."""

    def apply(self, measure: Measure, present: Sequence[int], facts: Facts) -> ClipReport:
        kind = self.clip.norm
        groups = measure.groups(self.clip.per, kind)
        counts = [len(group) for group in groups]
        norms, joint = torch.cat(groups), measure.joint(kind)
        threshold = self.limit.of(facts, norms, joint, present)
        coefficient = _coefficient(norms, threshold)
        for gradient, own in zip(measure.gradients, coefficient.split(counts), strict=True):
            if measure.device.type != "cpu" or bool((own != 1.0).any()):
                _scale(gradient, own, self.clip.per)

        clipped = norms > threshold
        after = _after(norms, threshold)
        before = norms
        if kind == "rms":
            sizes = measure.group_sizes(groups)
            after, before = (_times(values, counts, sizes) for values in (after, norms))
        p = 2.0 if kind == "rms" else kind
        return ClipReport(
            norm=joint,
            norm_after=engine.combine(after, p) / rms_size(kind, sum(measure.sizes)),
            threshold=torch.where(norms > 0, threshold, torch.inf).min(),
            clipped=clipped.any(),
            clip_fraction=clipped.to(measure.dtype).mean(),
            direction=_direction(before, coefficient) if p == 2.0 else None,
        )


def untouched(norm: Tensor) -> ClipReport:
    """The report of gradients that were left as they were."""
    return ClipReport(
        norm=norm,
        norm_after=norm,
        threshold=torch.full_like(norm, torch.inf),
        clipped=torch.zeros_like(norm, dtype=torch.bool),
        clip_fraction=torch.zeros_like(norm),
        direction=torch.ones_like(norm),
    )


def _scale(gradient: Tensor, coefficient: Tensor, per: Per) -> None:
    if per == "tensor" or gradient.ndim < 2:
        coefficient = coefficient[0]
    elif gradient.is_sparse:
        coefficient = coefficient[gradient._indices()[0].to(coefficient.device)]
    if values_of(gradient).numel():
        engine.scale_(values_of(gradient), coefficient)


def _coefficient(norm: Tensor, threshold: Tensor) -> Tensor:
    """``min(1, threshold / norm)``; NaN for a NaN norm, as in every framework, unless nothing bounds it."""
    free = (norm <= threshold) | torch.isinf(threshold)
    return torch.where(free, 1.0, threshold / norm)


def _after(norm: Tensor, threshold: Tensor) -> Tensor:
    """The norm that scaling leaves: Inf times 0 is NaN."""
    lost = torch.isinf(norm) & (norm > threshold)
    return torch.where(lost, torch.nan, torch.where(norm > threshold, threshold, norm))


def _times(values: Tensor, counts: Sequence[int], factors: Sequence[float]) -> Tensor:
    return torch.cat([part * f for part, f in zip(values.split(list(counts)), factors, strict=True)])


def _direction(norms: Tensor, coefficient: Tensor) -> Tensor:
    """The cosine between the parts with these norms and the same parts scaled."""
    largest = norms.max()
    unit = norms / torch.where(largest > 0, largest, torch.ones_like(largest))
    scaled = unit * coefficient
    lengths = torch.linalg.vector_norm(unit) * torch.linalg.vector_norm(scaled)
    # Nothing, before or after, points nowhere; that is no turn.
    return torch.where(lengths == 0, torch.ones_like(lengths), (unit * scaled).sum() / lengths)
