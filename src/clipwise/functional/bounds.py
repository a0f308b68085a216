"""The share of the weights at the bound of a clip, for all back ends."""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from clipwise.clip import AnyClip, Chain, Clip, singles
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.names import owner_of
from clipwise.namespace import Array
from clipwise.report import ClipReport
from clipwise.thresholds import Threshold

__all__ = ["TOLERANCE", "Share", "of_measure", "share_at_bound"]

TOLERANCE = 2e-6
"""Relative: a norm that was scaled to the bound is the bound to rounding."""

Share: TypeAlias = Callable[[Clip, Sequence[int], Any], Array]
"""Of one clip, the places of the weights it is for, and the bound that is in force: the share, 0-d."""


def share_at_bound(clip: AnyClip, report: ClipReport, names: Sequence[str], share: Share) -> Array:
    """The share of the groups at the bound: entries for value clipping, units, or tensors.

    For several parts it is combined like ``clip_fraction``: for `chain` the largest share of a part, for
    `by_name` the mean over the parts, weighted by their numbers of tensors.

    Args:
        clip: the clip of the weights.
        report: report of the step that clipped them, which holds the thresholds of policies.
        names: names of the weights that it clipped.
        share: the share for a single clip, computed in this framework.

    Returns:
        The share, 0-d; NaN if each group has a threshold of its own, since the report holds only the
        smallest.
    """
    if any(map(_bounds_each, singles(clip))):
        return math.nan
    if not names:
        return 0.0

    def of(clip: AnyClip, report: ClipReport, places: Sequence[int]) -> Array:
        if isinstance(clip, Clip):
            policy = isinstance(clip.threshold, Threshold)
            return share(clip, places, report.threshold if policy else clip.threshold)
        if isinstance(clip, Chain):
            found = [of(part, report.parts[str(i)], places) for i, part in enumerate(clip.clips)]
            most = found[0]
            for one in found[1:]:
                most = most + (one - most) * (one > most)
            return most
        sum_: Array = 0.0
        for pattern, part in clip.parts:
            own = [place for place in places if owner_of(clip, names[place]) == pattern]
            if part is not None and own:
                sum_ = sum_ + of(part, report.parts[pattern], own) * (len(own) / len(places))
        return sum_

    return of(clip, report, range(len(names)))


def _bounds_each(clip: Clip) -> bool:
    policy = clip.threshold
    if clip.per == "global" or not isinstance(policy, Threshold):
        return False
    by_norm = policy.watches_norm and clip.per != "element"
    return by_norm or "weight_norm" in policy.needs | policy.wants


def of_measure(measure: MeasuredArrays, clip: AnyClip, report: ClipReport) -> Array:
    """`share_at_bound` for immutable arrays.

    Args:
        measure: the weights after clipping.
        clip, report: as for `share_at_bound`.
    """

    def share(clip: Clip, places: Sequence[int], bound: Any) -> Array:
        part = measure.part(tuple(measure.layout.present[place] for place in places))
        if clip.per == "element":
            return _of_entries(part, bound)
        xp = part.xp
        norms = part.joint(clip.norm) if clip.per == "global" else part.groups(clip.per, clip.norm)
        slack = max([TOLERANCE, *(float(xp.finfo(array.dtype).eps) for array in part.arrays)])
        limit = xp.astype(xp.asarray(bound), xp.float_dtype) * (1.0 - slack)
        return xp.mean(xp.astype(norms >= limit, xp.float_dtype))

    found = share_at_bound(clip, report, measure.layout.names, share)
    return measure.xp.asarray(found)


def _of_entries(part: MeasuredArrays, bound: Any) -> Array:
    xp, arithmetic = part.xp, part.arithmetic
    ends = bound if isinstance(bound, tuple) else (None, bound)
    high = xp.astype(xp.asarray(ends[1]), xp.float_dtype)
    low = -high if ends[0] is None else xp.astype(xp.asarray(ends[0]), xp.float_dtype)
    counts = [xp.zeros(())]
    for array in part.arrays:
        # Entries are put to the bound as their own dtype has it, so nothing is rounded here.
        if arithmetic.is_complex(array):
            at = arithmetic.wide(array) >= high * (1.0 - TOLERANCE)
        else:
            top = xp.astype(high, array.dtype)
            at = (array >= top) | (array <= xp.astype(low, array.dtype))
        counts.append(xp.sum(xp.astype(at, xp.float_dtype)))
    return xp.sum(xp.stack(counts)) / max(1, part.layout.entries)
