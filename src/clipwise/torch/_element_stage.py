"""A `Clip` of single entries at work: value clipping."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipwise.clip import Clip
from clipwise.errors import ThresholdError
from clipwise.functional.facts import Facts
from clipwise.namespace import Array, namespace_of
from clipwise.report import ClipReport
from clipwise.thresholds import Observation
from clipwise.torch._measure import Measure
from clipwise.torch._stage import Stage
from clipwise.torch._units import Units, Way
from clipwise.torch.engines import reference
from clipwise.torch.engines._arrays import array_on, tensor_of, wide
from clipwise.torch.engines.reference import values_of

__all__ = ["ElementStage"]


class ElementStage(Stage):
    """Each entry by itself, between two bounds.

    Raises:
        ThresholdError: a range for complex parameters, whose entries have no order.
    """

    def __init__(self, clip: Clip, parameters: Sequence[Tensor], embeddings: set[int], units: Units) -> None:
        super().__init__(clip, parameters, embeddings, units)
        if isinstance(clip.threshold, tuple) and any(p.is_complex() for p in parameters):
            low, high = clip.threshold
            raise ThresholdError(
                f"complex gradients have no order for the range ({low:g}, {high:g}); give one threshold,"
                " which bounds their modulus"
            )

    def refuse_sparse(self, gradient: Tensor, way: Way | None) -> None:
        if isinstance(self.clip.threshold, tuple):
            low, high = self.clip.threshold
            if not low <= 0 <= high:
                raise ThresholdError(
                    f"the range ({low:g}, {high:g}) leaves out 0, which a sparse gradient consists of"
                )

    def apply(self, measure: Measure, present: tuple[int, ...], facts: Facts) -> ClipReport:
        norm = measure.joint(2.0)
        beyond, threshold = self._clamp_(measure, present, facts, norm)
        return ClipReport(
            norm=norm,
            norm_after=measure.joint(2.0),
            threshold=threshold,
            clipped=beyond > 0,
            clip_fraction=beyond / max(1, measure.layout.entries),
        )

    def _clamp_(
        self, measure: Measure, present: tuple[int, ...], facts: Facts, norm: Array
    ) -> tuple[Array, Array]:
        """Clamp; returns how many entries were beyond, and the magnitude that all keep to."""
        xp, threshold, policy = measure.xp, self.clip.threshold, self.limit.policy
        if isinstance(threshold, tuple):
            low, high = threshold
            return measure.clamp_(low, high), xp.asarray(max(abs(low), abs(high)))
        if policy is not None and "weight_norm" in policy.needs:
            return self._clamp_by_weight_(measure, present)
        heard = measure.heard(norm)
        limit = threshold if policy is None else self.limit.of(xp, facts, heard, heard, present)
        return measure.clamp_(-limit, limit), xp.asarray(limit)  # type: ignore[operator]

    def _clamp_by_weight_(self, measure: Measure, present: tuple[int, ...]) -> tuple[Array, Array]:
        """Every entry bounded by what its own weight says."""
        assert self.limit.policy is not None
        xp = measure.xp
        beyond, tightest = xp.asarray(0.0), xp.asarray(xp.inf)
        for place, gradient in zip(present, measure.tensors, strict=True):
            weights = self.limit.parameters[place].detach()
            if gradient.is_sparse:
                weights = weights[tuple(gradient._indices())]
            moduli = weights.abs().to(wide(weights.device))
            seen = Observation(norm=moduli, weight_norm=moduli)
            limit: Tensor = self.limit.policy.update(namespace_of(moduli), (), seen)[0]
            if limit.numel():
                tightest = xp.minimum(tightest, array_on(xp, limit.amin()))
            if measure.scale is not None:
                limit = limit * torch.as_tensor(measure.scale)
            if measure.leave is not None:
                limit = torch.where(tensor_of(measure.leave).to(limit.device), torch.inf, limit)
            beyond = beyond + array_on(xp, reference.clamp_(values_of(gradient), -limit, limit))
        measure.forget()
        return beyond, tightest
