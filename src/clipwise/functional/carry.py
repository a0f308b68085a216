"""Carries the state over when parameters are added or removed."""

from collections.abc import Sequence
from typing import Any

from clipwise.functional.group_thresholds import map_state
from clipwise.functional.layout import starts_of
from clipwise.functional.plan import Plan
from clipwise.functional.stage import Stage
from clipwise.namespace import Namespace

__all__ = ["carry"]


def carry(old: Plan, new: Plan, state: Any, xp: Namespace) -> Any:
    """The state of a plan converted to another plan of the same clip for other parameters.

    The state of a parameter's groups is matched by name. It is dropped if the parameter was removed or has
    another number of groups now; a new parameter starts with a new state.

    Args:
        old, new: the plans.
        state: state of the old plan.
        xp: namespace of its arrays.
    """
    stages = zip(old.stages(), new.stages(), old.states(state), strict=True)
    return new.joined(iter([_carried(before, after, own, xp) for before, after, own in stages]))


def _carried(before: Stage, after: Stage, state: Any, xp: Namespace) -> Any:
    counts = after.thresholds.counts
    if before.thresholds.counts is None or counts is None or not state:
        return state
    starts = starts_of(before.thresholds.counts)
    known = {slot.name: range(starts[i], starts[i + 1]) for i, slot in enumerate(before.slots)}
    sources: list[int] = []
    fresh = 0
    for slot, count in zip(after.slots, counts, strict=True):
        own: Sequence[int] = known.get(slot.name, ())
        if len(own) != count:
            own = range(starts[-1] + fresh, starts[-1] + fresh + count)
            fresh += count
        sources += own
    if sources == list(range(starts[-1])):
        return state
    assert after.thresholds.policy is not None
    begun = after.thresholds.policy.init(xp, (fresh,))
    index = xp.asarray(sources, dtype=xp.int64)
    return map_state(lambda own, new: xp.take(xp.concat([own, new]), index, axis=0), state, begun)
