"""How far one example can move a sum of clipped gradients."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from clipwise.functional.plan import Plan
from clipwise.functional.slots import Slot
from clipwise.functional.stage import Stage
from clipwise.namespace import Array, Namespace
from clipwise.thresholds import automatic

__all__ = ["bound"]


def bound(xp: Namespace, plan: Plan, rest: Iterator[Any], slots: Sequence[Slot]) -> Array:
    """The largest joint 2-norm that a plan leaves of these parameters, 0-d; inf: nothing bounds it.

    Args:
        rest: pairs of a stage (with its places) and its threshold, in the order of the states; those of the
            plan are taken.
    """
    if not plan.plans:
        (stage, _), threshold = next(rest)
        return _bound_of(xp, stage, threshold, slots)
    shares = getattr(plan, "shares", None)
    if shares is None:  # a chain: each bounds what the one before it left, and the last may enlarge
        bounds = [bound(xp, part, rest, slots) for part in plan.plans]
        enlarges = [
            any(isinstance(stage.thresholds.policy, automatic) for stage in part.stages())
            for part in plan.plans
        ]
        last = max((place for place, one in enumerate(enlarges) if one), default=0)
        return xp.min(xp.stack(bounds[last:]))
    parts = [
        bound(xp, part, rest, [slots[place] for place in share])
        for part, share in zip(plan.plans, shares, strict=False)
    ]
    if shares[-1]:  # parameters that no pattern matches
        parts.append(xp.full((), math.inf))
    return xp.sqrt(xp.sum(xp.stack([part * part for part in parts])))


def _bound_of(xp: Namespace, stage: Stage, threshold: Array, slots: Sequence[Slot]) -> Array:
    """The largest joint 2-norm that one clip leaves of these parameters."""
    policy, p = stage.thresholds.policy, stage.clip.norm
    sizes = [slot.size for slot in slots]
    if stage.clip.per == "global":
        sizes = [sum(sizes)]
    if isinstance(policy, automatic):
        threshold = xp.full((), policy.size)
    if p == "rms":
        roots = [math.sqrt(size) for size in sizes]
    else:  # ||g||_2 <= ||g||_p for p <= 2, and <= n^(1/2 - 1/p) ||g||_p beyond
        roots = [1.0 if p <= 2 else size ** (0.5 - 1.0 / p) for size in sizes]
    bounds = threshold * xp.asarray(roots, dtype=xp.float_dtype)
    return xp.sqrt(xp.sum(bounds * bounds))
