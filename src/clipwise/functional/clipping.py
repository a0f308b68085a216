"""One clipping step as a pure function of gradients, weights and state."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from clipwise.errors import NonFiniteError, ParameterError
from clipwise.functional.arguments import NonFinite
from clipwise.functional.arithmetic import Arithmetic
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.context import StepContext
from clipwise.functional.measure import Measure
from clipwise.functional.merging import changed, left_out, settled, untouched
from clipwise.functional.plan import Plan
from clipwise.functional.scaling import order_of
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["ClipState", "blank_report", "clip_arrays", "clip_measured", "init_state", "measured"]


class ClipState(NamedTuple):
    """The state of clipping between steps; arrays of the framework only.

    Attributes:
        step: number of steps so far, including skipped ones.
        thresholds: the states of the threshold policies.
    """

    step: Array
    thresholds: Any


def init_state(plan: Plan, xp: Any) -> ClipState:
    """The state before the first step."""
    return ClipState(xp.zeros((), dtype=xp.int32), plan.init(xp))


def blank_report(plan: Plan, arithmetic: Arithmetic, names: Sequence[str], *, complete: bool) -> ClipReport:
    """A report with the fields that every step has, before any step: norm 0.

    Args:
        complete: whether reports include the direction.
    """
    xp = arithmetic.xp
    report = dataclasses.replace(
        untouched(xp, xp.zeros(())), nonfinite=xp.zeros((), dtype=xp.int32), skipped=xp.zeros(()) > 0
    )
    if not complete:
        report = dataclasses.replace(report, direction=None)
    return dataclasses.replace(plan.blank(report), names=tuple(names), tensor_norms=xp.zeros((len(names),)))


def clip_measured(
    plan: Plan,
    measure: Measure,
    weights: Measure | None,
    state: Any,
    context: StepContext,
    nonfinite: NonFinite,
    *,
    direction: bool = False,
) -> tuple[ClipReport, Any]:
    """Clip the measured gradients, at least one, and return the report and the next state.

    A skipped step (``measure.leave``, by a veto, by ``nonfinite="skip"`` or by ``action="skip"``) differs
    from others only in that nothing is changed and that the thresholds receive norms of NaN.

    Args:
        plan: the clip.
        measure: the gradients by slot.
        weights: the parameters by slot, if they are known.
        state: state from the previous step.
        context: what else the thresholds may use.
        nonfinite: what to do about gradients that hold NaN or Inf.
        direction: report the cosine between the gradients before and after clipping even if this costs extra
            computation.

    Raises:
        NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``. Nothing was changed.
    """
    names = measure.layout.names
    norms = measured(plan, measure)
    bad, count = measure.nonfinite(norms, plan.norm)
    given = measure.leave
    if given is None:
        if nonfinite == "skip":
            measure.leave = count > 0
        elif nonfinite == "zero":
            measure.only_finite(bad, count)
        elif nonfinite == "error" and bool(count):
            first = names[[bool(flag) for flag in bad].index(True)]
            raise NonFiniteError(f"the gradient of {first!r} holds NaN or Inf ({int(count)} tensors in all)")
    left = plan.judge(measure, weights, state, context)
    if left is not None and given is not True:
        measure.leave = left if measure.leave is None else measure.leave | left
    if given is None and measure.leave is not None and not measure.defers:
        measure.leave = True if bool(measure.leave) else None  # asked once, for all that may leave it out

    direction = direction and measure.leave is not True
    before = measure.kept() if direction else ()
    size = measure.joint(2.0) if direction else None
    report, state = plan.apply(measure, weights, state, context)
    changes: dict[str, Any] = {"names": names, "tensor_norms": norms, "nonfinite": count}
    if direction:
        changes["direction"] = measure.cosine(before, size)
    if measure.leave is not None:
        report = left_out(measure.xp, report, measure.leave)
    return changed(report, changes), state


def measured(plan: Plan, measure: Measure) -> Array:
    """The norms of the tensors that a plan reports, one vector."""
    p = order_of(plan.norm)
    if plan.by_unit:
        measure.unit_norms(p)  # the norms of the tensors follow from these: one read for both
    return measure.tensor_norms(p)


def clip_arrays(
    plan: Plan,
    measure: MeasuredArrays,
    weights: MeasuredArrays | None,
    state: ClipState,
    context: StepContext,
    nonfinite: NonFinite,
    *,
    direction: bool = False,
) -> tuple[list[Array | None], ClipState, ClipReport]:
    """`clip_measured` for immutable arrays.

    Args:
        plan: the clip.
        measure: the gradients by slot.
        weights: the parameters by slot, if they are known.
        state: state from the previous step.
        context: what else the thresholds may use; the step number is that of the state.
        nonfinite: what to do about gradients that hold NaN or Inf. ``"skip"``: return zeros for all gradients
            and report ``skipped``. ``"zero"``: replace such entries by 0 and clip. ``"error"``: raise, which
            needs arrays whose values can be read. ``"propagate"``: nothing.
        direction: report the cosine between the gradients before and after clipping even if this costs extra
            computation.

    Raises:
        NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``.
        ParameterError: a threshold needs weights or a loss that was not given.
    """
    xp, arithmetic = measure.xp, measure.arithmetic
    _refuse_missing(plan, weights, context)
    step = state.step + xp.astype(xp.full((), 1.0), xp.int32)
    if not measure.layout.present:
        report = blank_report(plan, arithmetic, (), complete=False)
        return measure.full(), ClipState(step, state.thresholds), report
    context = dataclasses.replace(context, step=xp.astype(state.step, xp.float_dtype))
    report, thresholds = clip_measured(
        plan, measure, weights, state.thresholds, context, nonfinite, direction=direction
    )
    if measure.leave is None:
        report = changed(report, {"skipped": xp.zeros(()) > 0})
    else:
        measure.arrays = arithmetic.emptied(measure.arrays, measure.leave)
    return measure.full(), ClipState(step, thresholds), settled(report)


def _refuse_missing(plan: Plan, weights: Measure | None, context: StepContext) -> None:
    for stage in plan.stages():
        policy, needs = stage.thresholds.policy, stage.thresholds.needs
        if "weight_norm" in needs and weights is None:
            raise ParameterError(f"{policy!r} depends on the weights: give the parameters with the gradients")
        if "loss" in needs and context.loss is None:
            raise ParameterError(f"{policy or stage.clip!r} follows the loss: give the loss of every step")
