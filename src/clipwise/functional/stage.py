"""One `Clip` at work: measure the groups, get the thresholds, scale or clamp."""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from clipwise.clip import Clip
from clipwise.functional import scaling
from clipwise.functional.context import StepContext
from clipwise.functional.group_thresholds import GroupThresholds
from clipwise.functional.measure import Measure
from clipwise.functional.merging import untouched
from clipwise.functional.slots import Slot
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["GlobalStage", "Stage", "Step", "make_stage"]

Step: TypeAlias = tuple[ClipReport, Any]
"""What a step did, and the state of the thresholds after it."""


def make_stage(clip: Clip, slots: Sequence[Slot]) -> "Stage":
    """The stage of a clip for some parameters."""
    match clip.per:
        case "element":
            return _ElementStage(clip, slots)
        case "global":
            return GlobalStage(clip, slots)
        case _:
            return _GroupStage(clip, slots)


class Stage(ABC):
    """One clip for some parameters; immutable.

    Args:
        clip: the clip.
        slots: all parameters that it may ever see, in the order of its state.
    """

    def __init__(self, clip: Clip, slots: Sequence[Slot]) -> None:
        self.clip = clip
        self.slots = tuple(slots)
        self.thresholds = GroupThresholds(clip, self.slots)

    def init(self, xp: Any) -> Any:
        """The state before the first step."""
        return self.thresholds.init(xp)

    @abstractmethod
    def apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        """Clip the measured arrays, at least one.

        Args:
            measure: the gradients by slot; holds the clipped ones afterwards.
            weights: the parameters by slot, if they are known.
            state: state of the stage.
            context: what else the thresholds may use.

        Raises:
            ThresholdError: a range was given for complex gradients.
        """


class GlobalStage(Stage):
    """One norm of all gradients."""

    def apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        norm = measure.joint(self.clip.norm)
        heard = measure.finite_for_history(norm)
        threshold, state, held = self.thresholds.of(measure, weights, state, context, heard, heard)
        return self.scale(measure, norm, threshold, held), state

    def scale(self, measure: Measure, norm: Array, threshold: Array, held: Mapping[str, Array]) -> ClipReport:
        """Multiply everything by the coefficient of this norm."""
        xp = measure.xp
        measure.scale(scaling.coefficient(xp, norm, threshold))
        clipped = norm > threshold
        return ClipReport(
            norm=norm,
            norm_after=scaling.norm_after(xp, norm, threshold),
            threshold=threshold,
            clipped=clipped,
            clip_fraction=measure.number(clipped),
            direction=1.0 + 0.0 * norm,  # NaN for a norm that is not finite
            held=held,
        )


class _GroupStage(Stage):
    """A norm for each tensor, or for each unit."""

    def apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        xp, per, kind = measure.xp, self.clip.per, self.clip.norm
        norms, joint = measure.groups(per, kind), measure.joint(kind)
        heard = measure.finite_for_history(joint)
        threshold, state, held = self.thresholds.of(measure, weights, state, context, norms, heard)
        clipped = norms > threshold
        tightest = xp.min(xp.where(norms > 0, threshold, xp.inf))
        if measure.is_idle(clipped, joint):
            return dataclasses.replace(untouched(xp, joint), threshold=tightest, held=held), state
        coefficients = scaling.coefficient(xp, norms, threshold)
        measure.scale(coefficients, per)

        before, after, p = norms, scaling.norm_after(xp, norms, threshold), kind
        if p == "rms":
            roots = measure.layout.roots(per)
            before, after, p = norms * roots, after * roots, 2.0
        size, root = scaling.combine(xp, after, p), measure.layout.root(kind)
        share = xp.mean(xp.astype(clipped, xp.float_dtype))
        direction = None
        if p == 2.0:  # exactly 1 where nothing is clipped, and NaN for a norm that is not finite
            turned = scaling.direction(xp, before, after, (joint * root, size))
            direction = xp.where((share > 0) | ~xp.isfinite(joint), turned, 1.0)
        report = ClipReport(
            norm=joint,
            norm_after=size / root,
            threshold=tightest,
            clipped=share > 0,
            clip_fraction=share,
            direction=direction,
            held=held,
        )
        return report, state


class _ElementStage(Stage):
    """Each entry by itself, between two bounds: value clipping."""

    def apply(self, measure: Measure, weights: Measure | None, state: Any, context: StepContext) -> Step:
        norm = measure.joint(2.0)
        heard = measure.finite_for_history(norm)
        held: Mapping[str, Array] = {}
        if isinstance(self.clip.threshold, tuple):
            low, high = self.clip.threshold
            beyond = measure.clamp(low, high, ordered=True)
            tightest = self._reach(measure)
        elif self.thresholds.by_entry:
            assert weights is not None
            beyond, tightest, state = self._by_weight(measure, weights, state, context, heard)
        else:
            tightest, state, held = self.thresholds.of(measure, weights, state, context, heard, heard)
            beyond = measure.clamp(-tightest, tightest)
        report = ClipReport(
            norm=norm,
            norm_after=measure.joint(2.0),
            threshold=tightest,
            clipped=beyond > 0,
            clip_fraction=beyond / max(1, measure.layout.entries),
            held=held,
        )
        return report, state

    def _reach(self, measure: Measure) -> Array:
        """The largest magnitude within a range."""
        low, high = self.clip.threshold  # type: ignore[misc]
        if isinstance(low, float) and isinstance(high, float):
            return measure.number(max(abs(low), abs(high)))
        return measure.xp.maximum(*(measure.xp.abs(measure.number(end)) for end in (low, high)))

    def _by_weight(
        self, measure: Measure, weights: Measure, state: Any, context: StepContext, joint: Array
    ) -> tuple[Array, Array, Any]:
        """Bound every entry by what its weight says: how many were beyond, the tightest bound, the state."""
        xp, states = measure.xp, []
        beyond, tightest = measure.number(0.0), measure.number(math.inf)
        for position, limit, own in self.thresholds.of_entries(measure, weights, state, context, joint):
            states.append(own)
            if position >= 0:
                beyond = beyond + measure.bound(position, limit)
                if 0 not in getattr(limit, "shape", ()):
                    tightest = xp.minimum(tightest, xp.min(xp.asarray(limit)))
        measure.forget()
        beyond, tightest = measure.everywhere(beyond, tightest)
        return beyond, tightest, self.thresholds.joined(xp, state, states)
