"""A `Clip` of single entries at work: value clipping."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipwise.clip import Clip
from clipwise.errors import ThresholdError
from clipwise.report import ClipReport
from clipwise.thresholds import Observation
from clipwise.torch._keeper import namespace_on
from clipwise.torch._limit import Facts
from clipwise.torch._measure import Measure, values_of
from clipwise.torch._stage import Stage
from clipwise.torch.engines import reference as engine

__all__ = ["ElementStage"]

Bound = float | Tensor


class ElementStage(Stage):
    """Each entry by itself, between two bounds.

    Raises:
        ThresholdError: a range for complex parameters, whose entries have no order.
    """

    def __init__(self, clip: Clip, parameters: Sequence[Tensor], embeddings: set[int]) -> None:
        super().__init__(clip, parameters, embeddings)
        if isinstance(clip.threshold, tuple) and any(p.is_complex() for p in parameters):
            low, high = clip.threshold
            raise ThresholdError(
                f"complex gradients have no order for the range ({low:g}, {high:g}); give one threshold,"
                " which bounds their modulus"
            )

    def apply(self, measure: Measure, present: Sequence[int], facts: Facts) -> ClipReport:
        norm = measure.joint(2.0)
        bounds, largest = self._bounds(measure, present, facts)
        beyond = torch.zeros((), dtype=torch.int64, device=measure.device)
        for gradient, (low, high) in zip(measure.gradients, bounds, strict=True):
            if measure.scale is not None:
                low, high = low * measure.scale, high * measure.scale
            beyond += engine.clamp_(values_of(gradient), low, high).to(measure.device)
        return ClipReport(
            norm=norm,
            norm_after=measure.again().joint(2.0),
            threshold=torch.full_like(norm, largest) if isinstance(largest, float) else largest,
            clipped=beyond > 0,
            clip_fraction=beyond.to(measure.dtype) / max(1, sum(measure.sizes)),
        )

    def _bounds(
        self, measure: Measure, present: Sequence[int], facts: Facts
    ) -> tuple[list[tuple[Bound, Bound]], Bound]:
        """The lowest and highest value of each gradient's entries, and the magnitude that all keep to."""
        threshold, policy = self.clip.threshold, self.limit.policy
        if isinstance(threshold, tuple):
            return [threshold] * len(present), max(abs(bound) for bound in threshold)
        if isinstance(threshold, float):
            return [(-threshold, threshold)] * len(present), threshold
        if policy is not None and "weight_norm" in policy.needs:
            limits = [self._by_weight(i, g) for i, g in zip(present, measure.gradients, strict=True)]
            tightest = [limit.amin().to(measure.device) for limit in limits if limit.numel()]
            infinite = [torch.full((), torch.inf, dtype=measure.dtype, device=measure.device)]
            return [(-limit, limit) for limit in limits], torch.stack(tightest + infinite).min()
        limit = self.limit.of(facts, measure.joint(2.0), measure.joint(2.0), present)
        return [(-limit, limit)] * len(present), limit

    def _by_weight(self, place: int, gradient: Tensor) -> Tensor:
        """The bound of each stored entry, from its own weight."""
        assert self.limit.policy is not None
        weights = self.limit.parameters[place].detach()
        if gradient.is_sparse:
            weights = weights[tuple(gradient._indices())]
        moduli = weights.abs().to(engine.wide(weights.device))
        seen = Observation(norm=moduli, weight_norm=moduli)
        limit: Tensor = self.limit.policy.update(namespace_on(weights.device), (), seen)[0]
        return limit
