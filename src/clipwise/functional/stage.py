"""One `Clip` at work on arrays that are values: measure the groups, ask for the threshold, scale or clamp."""

import itertools
from collections.abc import Sequence
from typing import Any

from clipwise.clip import Clip
from clipwise.errors import ThresholdError
from clipwise.functional import scaling
from clipwise.functional.facts import Facts
from clipwise.functional.measure import Measure
from clipwise.functional.slots import Slot
from clipwise.namespace import Array, is_traced
from clipwise.report import ClipReport
from clipwise.thresholds import Observation, Threshold

__all__ = ["Stage"]

Step = tuple[ClipReport, Any]
"""What a step did, and the state of the threshold after it."""


class Stage:
    """One clip on some parameters.

    Args:
        clip: what to do.
        slots: all parameters that it may ever see, in the order of its state.

    Raises:
        ThresholdError: a range for complex parameters is refused when it is applied.
    """

    def __init__(self, clip: Clip, slots: Sequence[Slot]) -> None:
        self.clip = clip
        self.slots = slots
        self.policy = clip.threshold if isinstance(clip.threshold, Threshold) else None

    def init(self, xp: Any) -> Any:
        """The state before the first step; an empty tuple for a number."""
        if self.policy is None:
            return ()
        counts = self._counts()
        return self.policy.init(xp, () if counts is None else (sum(counts),))

    def _counts(self) -> list[int] | None:
        """How many groups each slot has; None where there is one threshold for all."""
        if self.clip.per in ("element", "global"):
            return None
        return [slot.units if self.clip.per == "unit" else 1 for slot in self.slots]

    def apply(self, measure: Measure, weights: Measure | None, state: Any, facts: Facts) -> Step:
        """Clip what is measured, at least one array.

        Args:
            measure: of the gradients by slot; it holds the clipped ones afterwards.
            weights: of the parameters by slot, where they are known.
            state: of the policy.
            facts: what else it may know.
        """
        match self.clip.per:
            case "element":
                return self._elements(measure, weights, state, facts)
            case "global":
                return self._globally(measure, weights, state, facts)
            case _:
                return self._by_groups(measure, weights, state, facts)

    def _globally(self, measure: Measure, weights: Measure | None, state: Any, facts: Facts) -> Step:
        xp = measure.xp
        norm = measure.joint(self.clip.norm)
        heard = measure.heard(norm)
        threshold, state = self._threshold(measure, weights, state, facts, heard, heard)
        measure.scale(scaling.coefficient(xp, norm, threshold))
        clipped = norm > threshold
        report = ClipReport(
            norm=norm,
            norm_after=scaling.norm_after(xp, norm, threshold),
            threshold=threshold,
            clipped=clipped,
            clip_fraction=xp.astype(clipped, xp.float_dtype),
            direction=1.0 + 0.0 * norm,  # NaN for a norm that is not finite
        )
        return report, state

    def _by_groups(self, measure: Measure, weights: Measure | None, state: Any, facts: Facts) -> Step:
        xp, per, kind = measure.xp, self.clip.per, self.clip.norm
        norms, joint = measure.groups(per, kind), measure.joint(kind)
        threshold, state = self._threshold(measure, weights, state, facts, norms, measure.heard(joint))
        clipped = norms > threshold
        coefficients = scaling.coefficient(xp, norms, threshold)
        measure.scale(coefficients, per)

        before, after, p = norms, scaling.norm_after(xp, norms, threshold), kind
        if p == "rms":
            roots = measure.roots(per)
            before, after, p = norms * roots, after * roots, 2.0
        report = ClipReport(
            norm=joint,
            norm_after=scaling.combine(xp, after, p) / measure.root(kind),
            threshold=xp.min(xp.where(norms > 0, threshold, xp.full((), xp.inf))),
            clipped=xp.any(clipped),
            clip_fraction=xp.mean(xp.astype(clipped, xp.float_dtype)),
            direction=scaling.direction(xp, before, coefficients) if p == 2.0 else None,
        )
        return report, state

    def _elements(self, measure: Measure, weights: Measure | None, state: Any, facts: Facts) -> Step:
        xp, arithmetic = measure.xp, measure.arithmetic
        norm = measure.joint(2.0)
        beyond: list[Array] = []
        clamped: list[Array] = []
        if isinstance(self.clip.threshold, tuple):
            low, high = self.clip.threshold
            if any(arithmetic.is_complex(array) for array in measure.arrays):
                raise ThresholdError(
                    f"complex gradients have no order for the range ({low}, {high}); give one threshold,"
                    " which bounds their modulus"
                )
            ends = xp.asarray(low), xp.asarray(high)
            bounds = [ends] * len(measure.arrays)
            tightest = xp.maximum(*map(xp.abs, ends))
        elif self.policy is not None and "weight_norm" in self.policy.needs:
            limits = self._entry_limits(measure, weights, facts)
            bounds = [(-limit, limit) for limit in limits]
            tightest = xp.min(
                xp.stack([xp.min(limit) for limit in limits if 0 not in limit.shape] or [xp.full((), xp.inf)])
            )
        else:
            heard = measure.heard(norm)
            limit, state = self._threshold(measure, weights, state, facts, heard, heard)
            bounds = [(-limit, limit)] * len(measure.arrays)
            tightest = limit
        for array, (low, high) in zip(measure.arrays, bounds, strict=True):
            clamp = arithmetic.clamped_moduli if arithmetic.is_complex(array) else arithmetic.clamped
            out = clamp(array, low, high)
            clamped.append(out[0])
            beyond.append(out[1])
        measure.replace(clamped)
        count = xp.sum(xp.stack(beyond))
        report = ClipReport(
            norm=norm,
            norm_after=measure.joint(2.0),
            threshold=tightest,
            clipped=count > 0,
            clip_fraction=count / max(1, measure.entries),
        )
        return report, state

    def _entry_limits(self, measure: Measure, weights: Measure | None, facts: Facts) -> list[Array]:
        """A bound for every entry, from what its own weight says."""
        assert self.policy is not None
        assert weights is not None
        known = weights.full()
        limits = []
        for place in measure.present:
            moduli = measure.xp.abs(measure.arithmetic.wide(known[place]))
            seen = Observation(norm=moduli, weight_norm=moduli, step=facts.step)
            limits.append(self.policy.update(measure.xp, (), seen)[0])
        return limits

    def _threshold(
        self, measure: Measure, weights: Measure | None, state: Any, facts: Facts, norms: Array, joint: Array
    ) -> tuple[Array, Any]:
        """The threshold, or one for each of ``norms``, and the policy's next state."""
        xp = measure.xp
        if self.policy is None:
            threshold = xp.astype(xp.asarray(self.clip.threshold), xp.float_dtype)
            if is_traced(self.clip.threshold):  # which nobody could check
                threshold = xp.where(threshold < 0, xp.zeros(()), threshold)
            return threshold, state
        counts = self._counts()
        spread = counts is not None and self.policy.remembers and len(measure.present) < len(self.slots)
        seen = self._spread(measure, counts, norms) if spread and counts is not None else norms
        weight_norm, weight_count = self._weights(measure, weights, everyone=spread)
        threshold, state = self.policy.update(
            xp,
            state,
            Observation(
                norm=seen,
                step=facts.step,
                global_norm=joint,
                weight_norm=weight_norm,
                weight_count=weight_count,
                learning_rate=facts.learning_rate,
                momentum=facts.momentum,
                scale_free=facts.scale_free,
                loss=facts.loss,
            ),
        )
        threshold = xp.astype(xp.asarray(threshold), xp.float_dtype)
        threshold = xp.where(threshold < 0, xp.zeros(()), threshold)  # of a policy of the user's own
        if spread and counts is not None and tuple(threshold.shape):
            threshold = self._gather(measure, counts, threshold)
        return threshold, state

    def _spread(self, measure: Measure, counts: list[int], norms: Array) -> Array:
        """The norms by the groups of all slots: a memory has a place for each, with or without a gradient."""
        xp, parts, start = measure.xp, [], 0
        for place, count in enumerate(counts):
            if place in measure.present:
                parts.append(norms[start : start + count])
                start += count
            else:
                parts.append(xp.zeros((count,)))
        return xp.concat(parts)

    def _gather(self, measure: Measure, counts: list[int], values: Array) -> Array:
        ends = list(itertools.accumulate(counts))
        return measure.xp.concat(
            [values[ends[place] - counts[place] : ends[place]] for place in measure.present]
        )

    def _weights(
        self, measure: Measure, weights: Measure | None, *, everyone: bool
    ) -> tuple[Array | None, Array | int | None]:
        """The norms of the weights of the groups, and how many weights each has."""
        assert self.policy is not None
        per, norm = self.clip.per, self.clip.norm
        if weights is None or "weight_norm" not in self.policy.needs | self.policy.wants:
            return None, None
        if per != "global":
            chosen = weights if everyone else weights.part(measure.present)
            return chosen.groups(per, norm), chosen.group_sizes(per)
        places = list(range(len(self.slots)))
        if "weight_norm" in self.policy.wants:
            # As a guide to how far a step may go, not as the threshold itself: embeddings would dominate.
            places = [place for place in places if not self.slots[place].embedding] or places
        chosen = weights.part(places)
        return chosen.joint(norm), chosen.entries
