"""One `Clip` with ``action="skip"`` at work: a step above the threshold is left out, but not for ever."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from clipwise.functional.context import StepContext
from clipwise.functional.group_thresholds import map_state
from clipwise.functional.measure import Measure
from clipwise.functional.merging import changed, untouched
from clipwise.functional.stage import GlobalStage, Step
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["Judgement", "LossSkipStage", "SkipStage", "SkipState"]


class SkipState(NamedTuple):
    """What a skip remembers.

    Attributes:
        row: how many steps in a row it has left out, 0-d.
        policy: of the threshold.
    """

    row: Array
    policy: Any


class Judgement(NamedTuple):
    """What a skip found in the norm or the loss of a step, all 0-d.

    Attributes:
        threshold: of this step.
        above: whether that is above it; never of a step that is left out for something else.
        left: whether the step is left out for it.
        learned: the state of the policy, should the step happen.
        held: what held the threshold.
    """

    threshold: Array
    above: Array
    left: Array
    learned: Any
    held: Mapping[str, Array]


class SkipStage(GlobalStage):
    """One norm over everything; whether the step happens is judged before anything is touched."""

    def init(self, xp: Any) -> SkipState:
        return SkipState(xp.zeros((), dtype=xp.int32), super().init(xp))

    def judge(
        self, measure: Measure, weights: Measure | None, state: SkipState, context: StepContext
    ) -> Array:
        """Whether to leave the step out, 0-d; `apply` then goes by what was found."""
        heard = self._heard(measure, context)
        threshold, learned, held = self.thresholds.of(measure, weights, state.policy, context, heard, heard)
        above = heard > threshold
        left = above & (state.row < self.clip.patience)
        measure.judged[self] = Judgement(threshold, above, left, learned, held)
        return left

    def apply(
        self, measure: Measure, weights: Measure | None, state: SkipState, context: StepContext
    ) -> Step:
        xp, leave = measure.xp, measure.leave
        threshold, above, left, policy, held = measure.judged[self]
        if leave is not None:
            heard = self._heard(measure, context)
            _, unchanged, _ = self.thresholds.of(measure, weights, state.policy, context, heard, heard)
            if leave is True:
                policy = unchanged
            else:
                policy = map_state(lambda new, old: xp.where(leave, old, new), policy, unchanged)
        # What else leaves a step out neither counts nor ends the row.
        same = above if leave is None else above | leave
        row = xp.where(left, state.row + 1, xp.where(same, state.row, 0))
        report = changed(self._report(measure, threshold, left), {"skipped": left, "held": held})
        return report, SkipState(xp.astype(row, xp.int32), policy)

    def _heard(self, measure: Measure, context: StepContext) -> Array:
        """What is judged, NaN where the step is left out for something else."""
        return measure.finite_for_history(measure.joint(self.clip.norm))

    def _report(self, measure: Measure, threshold: Array, left: Array) -> ClipReport:
        return self.scale(measure, measure.joint(self.clip.norm), threshold, {})


class LossSkipStage(SkipStage):
    """The same by the loss: norms are left alone."""

    def _heard(self, measure: Measure, context: StepContext) -> Array:
        return measure.finite_for_history(measure.number(context.loss))

    def _report(self, measure: Measure, threshold: Array, left: Array) -> ClipReport:
        """Its threshold is none of norms: NaN where the loss was above it."""
        xp, norm = measure.xp, measure.joint(self.clip.norm)
        limit = xp.where(left, xp.full((), xp.nan), xp.full((), xp.inf))
        return changed(untouched(xp, norm), {"threshold": limit})
