"""One clipping step as a pure function of gradients, weights and state."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from clipwise.errors import NonFiniteError, ParameterError
from clipwise.functional.arguments import NonFinite
from clipwise.functional.arithmetic import Arithmetic
from clipwise.functional.facts import Facts
from clipwise.functional.measure import Measure
from clipwise.functional.plan import Plan
from clipwise.functional.scaling import order_of
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["ClipState", "blank_report", "clip_arrays", "init_state"]


class ClipState(NamedTuple):
    """What clipping remembers between steps: arrays of the framework only.

    Attributes:
        step: steps so far, skipped ones included.
        thresholds: the states of the threshold policies.
    """

    step: Array
    thresholds: Any


def init_state(plan: Plan, xp: Any) -> ClipState:
    """The state before the first step."""
    return ClipState(xp.zeros((), dtype=xp.int32), plan.init(xp))


def blank_report(plan: Plan, arithmetic: Arithmetic, names: Sequence[str], *, complete: bool) -> ClipReport:
    """A report of the form that every step has, of no step: norm 0.

    Args:
        complete: whether reports hold a direction.
    """
    xp = arithmetic.xp
    zero = xp.zeros(())
    report = ClipReport(
        norm=zero,
        norm_after=zero,
        threshold=xp.full((), xp.inf),
        clipped=zero > 0,
        clip_fraction=zero,
        direction=xp.full((), 1.0) if complete else None,
        nonfinite=xp.zeros((), dtype=xp.int32),
        skipped=zero > 0,
    )
    return dataclasses.replace(plan.blank(report), names=tuple(names), tensor_norms=xp.zeros((len(names),)))


def clip_arrays(
    plan: Plan,
    measure: Measure,
    weights: Measure | None,
    state: ClipState,
    facts: Facts,
    nonfinite: NonFinite,
    *,
    direction: bool = False,
) -> tuple[list[Array | None], ClipState, ClipReport]:
    """Clip the gradients that are measured.

    Args:
        plan: what to do.
        measure: of the gradients by slot.
        weights: of the parameters by slot, where they are known.
        state: from the step before.
        facts: what the thresholds may know; its step is that of the state.
        nonfinite: ``"skip"`` gives zeros in the place of gradients that hold NaN or Inf, and of all others of
            that step, and reports ``skipped``; ``"zero"`` clips them with 0 in the place of such entries;
            ``"error"`` raises, which takes arrays that can be looked at; ``"propagate"`` does nothing.
        direction: measure the cosine between the gradients before and after where it is not free.

    Raises:
        NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``.
        ParameterError: a threshold needs weights or a loss that are not there.
    """
    xp = measure.xp
    _refuse_missing(plan, weights, facts)
    facts = dataclasses.replace(facts, step=state.step)
    names = tuple(slot.name for slot in measure.slots)
    after = ClipState(state.step + xp.astype(xp.full((), 1.0), xp.int32), state.thresholds)
    if not measure.present:
        return measure.full(), after, blank_report(plan, measure.arithmetic, (), complete=False)

    if nonfinite != "zero":
        _measure_units_first(plan, measure)
    norms = measure.tensor_norms(order_of(plan.norm))
    bad = ~xp.isfinite(norms)
    bad_count = xp.sum(xp.astype(bad, xp.int32))
    skipped = xp.zeros(()) > 0
    if nonfinite == "error" and bool(bad_count):
        first = names[[bool(flag) for flag in bad].index(True)]
        raise NonFiniteError(f"the gradient of {first!r} holds NaN or Inf ({int(bad_count)} tensors in all)")
    if nonfinite == "skip":
        measure.leave = skipped = bad_count > 0
    elif nonfinite == "zero":
        measure.replace([measure.arithmetic.only_finite(array) for array in measure.arrays])

    before = list(measure.arrays) if direction else []
    size = measure.joint(2.0) if direction else None
    report, thresholds = plan.apply(measure, weights, state.thresholds, facts)
    changes: dict[str, Any] = {
        "names": names,
        "tensor_norms": norms,
        "nonfinite": bad_count,
        "skipped": skipped,
    }
    if direction:
        changes["direction"] = _cosine(measure, before, size)
    arrays = measure.full()
    if nonfinite == "skip":
        zero, nan = xp.zeros(()), xp.full((), xp.nan)
        there = iter(measure.arithmetic.emptied([a for a in arrays if a is not None], skipped))
        arrays = [a if a is None else next(there) for a in arrays]
        changes |= {
            "clipped": report.clipped & ~skipped,
            "norm_after": xp.where(skipped, zero, report.norm_after),
            "threshold": xp.where(skipped, nan, report.threshold),
            "clip_fraction": xp.where(skipped, zero, report.clip_fraction),
        }
    return arrays, ClipState(after.step, thresholds), dataclasses.replace(report, **changes)


def _refuse_missing(plan: Plan, weights: Measure | None, facts: Facts) -> None:
    for stage in plan.stages():
        if stage.policy is None:
            continue
        if "weight_norm" in stage.policy.needs and weights is None:
            raise ParameterError(
                f"{stage.policy!r} looks at the weights: give the parameters beside the gradients"
            )
        if "loss" in stage.policy.needs and facts.loss is None:
            raise ParameterError(f"{stage.policy!r} follows the loss: give the loss of every step")


def _measure_units_first(plan: Plan, measure: Measure) -> None:
    """The norms of the tensors follow from those of their units: one read for both."""
    stages = list(plan.stages())
    if len(stages) == 1 and stages[0].clip.per == "unit" and len(stages[0].slots) == len(measure.all_slots):
        measure.unit_norms(order_of(plan.norm))


def _cosine(measure: Measure, before: Sequence[Array], size: Array) -> Array:
    """The cosine between some arrays and those that are measured now."""
    xp, arithmetic = measure.xp, measure.arithmetic
    lengths = size * measure.joint(2.0)
    # Each divided by its own length first, so that no product leaves the range.
    a, b = (xp.where(x > 0, x, xp.full((), 1.0)) for x in (size, measure.joint(2.0)))
    products = [arithmetic.dot(old, new, a, b) for old, new in zip(before, measure.arrays, strict=True)]
    cosine = xp.sum(xp.stack(products))
    # Norms that are carried on, not measured anew, do not know what rounding to a half has added.
    return xp.where((lengths == 0) | (cosine > 1), xp.full((), 1.0), cosine)
