"""Downsamples a long series for the screen without losing a spike."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipwise.monitor.store import Floats

KINDS = ("nan", "inf", "-inf")
"""What a mark stands for, by its number."""


@dataclass(frozen=True)
class Thinned:
    """The rest of a series.

    Attributes:
        steps: ``(k,)``, float64, strictly ascending: if a step was recorded several times, its points lie
            between it and the next whole number.
        values: ``(k,)``; NaN where the line is to be broken.
        marks: ``(m, 3)``, int64: a step with a number that cannot be drawn, its kind in `KINDS`, and how many
            of this kind the mark stands for.
    """

    steps: Floats
    values: Floats
    marks: NDArray[np.int64]


def thin(
    steps: NDArray[np.int64],
    values: Floats,
    low: float | None = None,
    high: float | None = None,
    buckets: int = 1000,
) -> Thinned:
    """At most four points for each of ``buckets`` equal parts: the first, smallest, largest and last one.

    A line through them covers the same pixels as the line through all points, if a part is at most one pixel
    wide. NaN and Inf break the line; the first of each kind in a part becomes a mark. With up to four points
    per part, all are kept. The nearest point on either side of the range is added, so that lines reach the
    edges.

    Args:
        steps: ``(n,)``, ascending.
        values: ``(n,)``.
        low, high: the range of steps, both included; by default all.
        buckets: number of parts.

    >>> values = np.zeros(1_000_000)
    >>> values[123_456] = 1.0
    >>> few = thin(np.arange(1_000_000), values, buckets=500)
    >>> len(few.values) <= 2000, few.steps[few.values == 1.0].tolist()
    (True, [123456.0])
    """
    if not len(steps):
        return Thinned(np.zeros(0), np.zeros(0), np.zeros((0, 3), dtype=np.int64))
    low = float(steps[0]) if low is None else low
    high = float(steps[-1]) if high is None else high
    first, end = np.searchsorted(steps, low, "left"), np.searchsorted(steps, high, "right")
    here = slice(int(first), int(end))
    part = _part(steps[here], low, high, buckets)
    finite = np.isfinite(values[here])
    marks, breaks = _marks(steps[here], values[here], ~finite, part)
    if end - first <= 4 * buckets:
        kept = np.arange(end - first)
    else:
        found = np.flatnonzero(finite)
        kept = np.union1d(found[_corners(values[here][found], part[found])], breaks)
    kept = kept + first
    before = [first - 1] if first > 0 else []
    after = [end] if end < len(steps) else []
    kept = np.concatenate([before, kept, after]).astype(np.int64)
    return Thinned(_apart(steps[kept]), np.where(np.isfinite(values[kept]), values[kept], np.nan), marks)


def averaged(
    steps: NDArray[np.int64],
    values: Floats,
    low: float | None = None,
    high: float | None = None,
    buckets: int = 1000,
) -> Thinned:
    """The mean of the values in each of ``buckets`` equal parts, at its first step; NaN does not count.

    For shares, of which `thin` would show the extremes only. Up to one point a part, all are kept.

    Args:
        steps: ``(n,)``, ascending.
        values: ``(n,)``.
        low, high: the range of steps, both included; all of them unless given.
        buckets: parts.

    >>> few = averaged(np.arange(6), np.array([0.0, 1.0, 1.0, 1.0, 0.0, 0.0]), buckets=3)
    >>> few.steps.tolist(), few.values.tolist()
    ([0.0, 2.0, 4.0], [0.5, 1.0, 0.0])
    """
    known = ~np.isnan(values)
    if low is not None:
        known &= steps >= low
    if high is not None:
        known &= steps <= high
    steps, values = steps[known], values[known]
    nothing = np.zeros((0, 3), dtype=np.int64)
    if not len(steps):
        return Thinned(np.zeros(0), np.zeros(0), nothing)
    if len(steps) > buckets:
        starts = np.flatnonzero(np.diff(_part(steps, float(steps[0]), float(steps[-1]), buckets), prepend=-1))
        counts = np.diff(np.append(starts, len(steps)))
        steps, values = steps[starts], np.add.reduceat(values, starts) / counts
    return Thinned(_apart(steps), values, nothing)


def running_mean(values: Floats, window: int) -> Floats:
    """The mean of the last ``window`` finite values at each position; NaN if there is none.

    >>> running_mean(np.array([1.0, 3.0, np.nan, 5.0]), 2).tolist()
    [1.0, 2.0, 3.0, 5.0]
    """
    finite = np.isfinite(values)
    # Around their middle: sums of a million values lose less.
    middle = float(np.median(values[finite])) if finite.any() else 0.0
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values - middle, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    start = np.maximum(np.arange(len(values)) + 1 - window, 0)
    count = counts[1:] - counts[start]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(count > 0, (sums[1:] - sums[start]) / count + middle, np.nan))


def _part(steps: NDArray[np.int64], low: float, high: float, buckets: int) -> NDArray[np.int64]:
    """The number of the part that each step lies in."""
    width = (high - low) / buckets or 1.0
    return np.minimum(((steps - low) / width).astype(np.int64), buckets - 1)


def _corners(values: Floats, part: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the first, the least, the largest and the last value of each part are."""
    if not len(values):
        return np.zeros(0, dtype=np.int64)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    ends = np.append(starts[1:], len(values))
    places: list[Any] = [starts, ends - 1]
    for extreme in (np.minimum, np.maximum):
        of_part = np.repeat(extreme.reduceat(values, starts), ends - starts)
        at = np.flatnonzero(values == of_part)
        places.append(at[np.flatnonzero(np.diff(part[at], prepend=-1))])
    return np.unique(np.concatenate(places))


def _marks(
    steps: NDArray[np.int64], values: Floats, bad: NDArray[np.bool_], part: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps, kinds and counts of the marks, and where they were."""
    at = np.flatnonzero(bad)
    kind = np.where(np.isnan(values[at]), 0, np.where(values[at] > 0, 1, 2))
    _, which, count = np.unique(part[at] * len(KINDS) + kind, return_index=True, return_counts=True)
    order = np.argsort(which)
    which, count = which[order], count[order]
    return np.stack([steps[at[which]], kind[which], count], axis=1).astype(np.int64), at[which]


def _apart(steps: NDArray[np.int64]) -> Floats:
    """Repeated steps spread over the unit that follows them, so that a chart keeps each of their points."""
    starts = np.flatnonzero(np.diff(steps, prepend=steps[0] - 1))
    counts = np.diff(np.append(starts, len(steps)))
    place = np.arange(len(steps)) - np.repeat(starts, counts)
    return np.asarray(steps + place / np.repeat(counts, counts), dtype=np.float64)
