"""A bounded history of norms, one a group, and its percentiles: exact while short, a sketch when long.

The last norms lie in a ring, whose percentiles are exact. Where the whole history counts, every norm is also
counted in a bin of a logarithmic histogram; once there are more norms than the ring holds, percentiles are
read from there, with a relative error of at most `SKETCH_ERROR`, and never beyond the smallest and largest
norm. So the state has one size for ever, needs no sync, and never has to be traced again. Source of the
histogram: DDSketch, Masson, Rim and Lee 2019, arXiv:1908.10693.
"""

import math
from typing import Any, NamedTuple

from clipwise.namespace import Array

__all__ = ["SKETCH_ERROR", "History", "add", "percentile_of", "start"]

RING = 1000
"""How many norms the ring of a whole history holds: up to there its percentiles are exact."""

SKETCH_ERROR = 0.005
"""Largest relative error of a percentile of a longer history, for norms within [LOWEST, 1 / LOWEST]."""

LOWEST = 1e-12
_WIDTH = 2.0 * math.atanh(SKETCH_ERROR)  # log of (1 + error) / (1 - error): the width of one bin
_BINS = math.ceil(-2.0 * math.log(LOWEST) / _WIDTH)


class History(NamedTuple):
    """``shape`` stands for the groups' axes.

    Attributes:
        ring: the last norms, inf where there is none yet; ``shape + (size,)``.
        count: how many norms were added; ``shape``.
        bins: how many norms fell into each bin; ``shape + (bins,)``, no bins where only the ring counts.
        lowest, highest: the smallest and the largest norm added; ``shape``.
    """

    ring: Array
    count: Array
    bins: Array
    lowest: Array
    highest: Array


def start(xp: Any, shape: tuple[int, ...], window: int | None) -> History:
    """An empty history of the last ``window`` values, or of all (None)."""
    return History(
        ring=xp.full((*shape, window or RING), math.inf),
        count=xp.zeros(shape, dtype=xp.int32),
        bins=xp.zeros((*shape, 0 if window else _BINS), dtype=xp.int32),
        lowest=xp.full(shape, math.inf),
        highest=xp.full(shape, -math.inf),
    )


def add(xp: Any, history: History, value: Array, accept: Array) -> History:
    """The history with ``value`` added where ``accept`` is true."""
    ring, count, bins, lowest, highest = history
    size = ring.shape[-1]
    here = xp.arange(size) == (count % size)[..., None]
    ring = xp.where(here & accept[..., None], value[..., None], ring)
    if bins.shape[-1]:
        # Values that may not enter could be NaN, which has no bin.
        safe = xp.where(accept, value, 1.0)
        place = xp.clip(xp.floor((xp.log(safe) - math.log(LOWEST)) / _WIDTH), 0.0, _BINS - 1.0)
        here = xp.arange(_BINS) == xp.astype(place, xp.int32)[..., None]
        bins = bins + xp.astype(here & accept[..., None], xp.int32)
    lowest = xp.where(accept, xp.minimum(lowest, value), lowest)
    highest = xp.where(accept, xp.maximum(highest, value), highest)
    return History(ring, count + xp.astype(accept, xp.int32), bins, lowest, highest)


def percentile_of(xp: Any, history: History, q: float) -> Array:
    """The q-th percentile (0 to 100), linear between neighbours as numpy's; inf where nothing was added."""
    ring, count, bins, lowest, highest = history
    exact = _of_ring(xp, xp.sort(ring, axis=-1), xp.clip(count, 0, ring.shape[-1]), q)
    if not bins.shape[-1]:
        return exact
    sketched = xp.minimum(xp.maximum(_of_bins(xp, bins, count, q, exact), lowest), highest)
    return xp.where(count <= ring.shape[-1], exact, sketched)


def _of_ring(xp: Any, ordered: Array, count: Array, q: float) -> Array:
    rank = xp.clip(_as_float(xp, count - 1, ordered), 0.0, None) * (q / 100.0)
    low = xp.floor(rank)
    index = xp.astype(low, xp.int64)
    last = xp.astype(xp.clip(count - 1, 0, None), xp.int64)
    above = xp.where(index + 1 < last, index + 1, last)
    at_low = xp.take_along_axis(ordered, index[..., None], axis=-1)[..., 0]
    at_high = xp.take_along_axis(ordered, above[..., None], axis=-1)[..., 0]
    # An empty history holds inf, and inf - inf is NaN.
    low_value, high_value = (xp.where(count > 0, value, 0.0) for value in (at_low, at_high))
    value = low_value + (high_value - low_value) * (rank - low)
    return xp.where(count > 0, value, xp.inf)


def _of_bins(xp: Any, bins: Array, count: Array, q: float, like: Array) -> Array:
    so_far = _as_float(xp, xp.cumulative_sum(bins, axis=-1), like)
    last = _as_float(xp, count - 1, like)
    rank = last * (q / 100.0)
    low = xp.floor(rank)
    at_low = _at_rank(xp, so_far, low)
    at_high = _at_rank(xp, so_far, xp.minimum(low + 1.0, last))
    return at_low + (at_high - at_low) * (rank - low)


def _at_rank(xp: Any, so_far: Array, rank: Array) -> Array:
    """The middle of the bin that holds the norm of this rank, 0 for the smallest."""
    place = xp.sum(xp.astype(so_far <= rank[..., None], xp.int32), axis=-1)
    edge = xp.exp(_as_float(xp, place, rank) * _WIDTH + math.log(LOWEST))
    # In the sense that its error to either edge is the same share: 2ab / (a + b).
    return edge * (2.0 / (1.0 + math.exp(-_WIDTH)))


def _as_float(xp: Any, value: Array, like: Array) -> Array:
    return xp.astype(value, like.dtype)
