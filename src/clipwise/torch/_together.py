"""The first collective of a step on parameters that are spread over ranks: all norms that it begins with."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clipwise.clip import Per
from clipwise.errors import ArgumentError, ClipwiseError
from clipwise.functional.plan import Plan
from clipwise.functional.scaling import order_of
from clipwise.namespace import Array
from clipwise.torch._sharded import ShardedTensors
from clipwise.torch._sharding import Sharding
from clipwise.torch.engines._arrays import array_on, tensor_of

__all__ = ["Together", "measure_together", "refuse_on_shards"]


class Together(NamedTuple):
    """What the first collective of a step tells.

    Attributes:
        measure: of the gradients; None: no rank has any.
        loss: the mean over the ranks that know one; None: none does.
    """

    measure: ShardedTensors | None
    loss: Array | None


def _asked(plan: Plan, *, direction: bool) -> list[tuple[Per, float]]:
    """By what and in which orders all norms are measured that a plan begins with."""
    found: set[tuple[Per, float]] = set()
    stages = list(plan.stages())
    if plan.by_unit:  # the norms of the tensors follow from those of their units
        found.add(("unit", order_of(plan.norm)))
    else:
        found |= {("tensor", order_of(norm)) for norm in (plan.norm, *(stage.clip.norm for stage in stages))}
        if _has_units_of_all(plan):
            found |= {("unit", order_of(stage.clip.norm)) for stage in stages if stage.clip.per == "unit"}
    if direction or any(stage.clip.per == "element" for stage in stages):
        found.add(("tensor", 2.0))
    return sorted(found)


def _asked_of_weights(plan: Plan) -> list[tuple[Per, float]]:
    """The same of the weights."""
    stages = [stage for stage in plan.stages() if "weight_norm" in stage.thresholds.sees]
    by_unit = _has_units_of_all(plan)
    return sorted(
        {
            ("unit" if by_unit and stage.clip.per == "unit" else "tensor", order_of(stage.clip.norm))
            for stage in stages
        }
    )


def _has_units_of_all(plan: Plan) -> bool:
    """Whether a stage by unit sees all parameters, and not those of one pattern."""
    return plan.by_unit or any(_has_units_of_all(part) for part in _in_a_row(plan))


def _bounds_of(plan: Plan, sharding: Sharding) -> tuple[float, float] | None:
    """Between what a plan first of all clamps all entries, if that is known before any norm is.

    Then what it does is measured with the norms. On a device it takes less time to send twice.
    """
    while plan.plans and _in_a_row(plan):
        plan = plan.plans[0]
    stages = list(plan.stages())
    if (
        plan.plans
        or stages[0].clip.per != "element"
        or sharding.cover.device is not None
        or any(sharding.wide)
    ):
        return None
    match stages[0].clip.threshold:
        case (float() as low, float() as high):
            return low, high
        case float() as high:
            return -high, high
    return None


def _in_a_row(plan: Plan) -> Sequence[Plan]:
    return plan.plans if not hasattr(plan, "shares") else ()


def refuse_on_shards(plan: Plan, sharding: Sharding) -> None:
    """ArgumentError if a plan does what is not done yet to parameters that are spread over ranks."""
    in_order = {entry.slot.name: entry.in_order for entry in sharding.entries}
    for stage in plan.stages():
        for slot in stage.slots if stage.clip.per == "unit" else ():
            if not slot.has_rows or not (in_order[slot.name] or len(slot.shape) < 2):
                raise ArgumentError(
                    "per='unit' takes sharded parameters (DTensor) only if their units lie along axis 0 and"
                    f" each rank holds consecutive units, unlike {slot.name!r}: use per='tensor'"
                )
        policy = stage.thresholds.policy
        if stage.thresholds.by_entry and policy is not None and policy.remembers:
            raise ArgumentError(
                f"{policy!r} with per='element' keeps a state for every entry, and does not take sharded"
                " parameters (DTensor): use per='tensor'"
            )


def measure_together(
    measure: ShardedTensors,
    here: Sequence[bool],
    plan: Plan,
    weights: ShardedTensors | None,
    loss: Array | None,
    *,
    direction: bool,
    error: ClipwiseError | None = None,
    judged: bool = False,
) -> Together:
    """Make all norms that a step begins with whole, in one collective.

    Args:
        measure: of the gradients of all parameters.
        here: which of them this rank has.
        plan: what they are measured for.
        weights: of the parameters, where a threshold looks at them.
        loss: of this rank.
        direction: the 2-norm is asked for, too.
        error: of this rank, which all are to hear of.
        judged: there is somebody on this rank who may leave the step out.

    Raises:
        ClipwiseError: there was an error on some rank, or nobody who may leave the step out on some of them;
            nothing was touched.
    """
    wanted = [(measure, per, p) for per, p in _asked(plan, direction=direction)]
    if weights is not None:
        wanted += [(weights, per, p) for per, p in _asked_of_weights(plan)]
    bounds = _bounds_of(plan, measure.sharding)
    clamped = None if bounds is None else measure.local_clamped(*bounds)
    parts = []
    for one, per, p in wanted:
        if clamped is not None and one is measure and (per, p) == ("tensor", 2.0):
            parts.append(clamped[0])  # which is known from the same pass
        else:
            parts.append(one.local_unit_norms(p) if per == "unit" else one.local_norms(p))
    with_loss = judged or "loss" in plan.sees()  # not the same on all ranks, as they may not all be judged
    heard = [float(error is not None), float(judged), *[float(with_loss and loss is not None)] * 2]
    known_here = (measure.layout, (tuple(here), *heard))
    extra = measure.sharding.kept(known_here, parts[0].norms, lambda: [*map(float, here), *heard])
    if loss is not None and with_loss:
        extra = extra.clone()
        extra[-2] = tensor_of(loss)
    if clamped is not None:
        parts.append(clamped[1])
        extra = torch.cat([clamped[2], extra])
    norms, total = measure.sharding.whole(parts, extra)
    assert total is not None
    if bounds is not None:
        measure.foresee(*bounds, norms.pop(), total[0])
        total = total[1:]
    measure.sharding.hear(total[-4], error)
    for (one, per, p), whole in zip(wanted, norms, strict=True):
        (one.learn_units if per == "unit" else one.learn)(p, whole)
    _refuse_missing_judges(total[-3], len(measure.sharding.cover.ranks), judged)
    # A rank that has everything knows that everything is there, and need not wait for the device to say so.
    known = with_loss and (loss is not None or float(total[-1]) > 0)
    mean = array_on(measure.xp, total[-2] / total[-1]) if known else None
    if all(here):
        return Together(measure, mean)
    there = [place for place, count in enumerate(total[: len(here)].tolist()) if count > 0]
    if len(there) == len(here):
        return Together(measure, mean)
    return Together(measure.of(there) if there else None, mean)


def _refuse_missing_judges(count: Tensor, ranks: int, judged: bool) -> None:
    """ArgumentError where some ranks have somebody who may leave the step out, and others not.

    On a device only those hear of it that wait for the device anyway, as judges do.
    """
    if (judged or count.device.type == "cpu") and 0 < int(count) < ranks:
        raise ArgumentError(
            f"{int(count)} of {ranks} ranks have a veto, such as a rule that skips steps: give each rank a"
            " Monitor with the same rules"
        )
