"""A history of norms in bounded memory, one per group, with its percentiles: exact at first, then a sketch.

The values are kept in ascending order: adding or removing one moves the others by one place, so a percentile
is two reads, and nothing is ever sorted. If all norms count, each is also counted in a logarithmic histogram.
Once there are more norms than the sorted array holds, percentiles are read from the histogram, with a
relative error of at most `SKETCH_ERROR`, and never outside of the smallest and largest norm. So the state has
a fixed size, needs no host-device sync, and is traced once. Source of the histogram: DDSketch, Masson, Rim
and Lee 2019, arXiv:1908.10693.
"""

import math
from typing import Any, NamedTuple

from clipwise.namespace import Array

EXACT = 1000
"""How many norms of a whole history are kept as they are: up to there its percentiles are exact."""

SKETCH_ERROR = 0.005
"""Largest relative error of a percentile of a longer history, for norms within [LOWEST, 1 / LOWEST]."""

LOWEST = 1e-12
_WIDTH = 2.0 * math.atanh(SKETCH_ERROR)  # log of (1 + error) / (1 - error): the width of one bin
_BINS = math.ceil(-2.0 * math.log(LOWEST) / _WIDTH)


class History(NamedTuple):
    """``shape`` stands for the groups' axes.

    Attributes:
        ordered: the values in ascending order, padded with inf; ``shape + (size,)``.
        ring: the same values as a ring buffer, the n-th at index n % size; ``shape + (size,)``. Empty if all
            values count: then the first ``size`` values stay in ``ordered``.
        count: number of values that were added; ``shape``.
        so_far: cumulative counts of the bins; ``shape + (bins,)``. No bins if only recent values count.
        lowest, highest: the smallest and the largest value in the bins; ``shape``.
    """

    ordered: Array
    ring: Array
    count: Array
    so_far: Array
    lowest: Array
    highest: Array


def start(xp: Any, shape: tuple[int, ...], window: int | None, whole: bool = False) -> History:
    """An empty history of the last ``window`` values, of all values (None), or of both (``whole``)."""
    return History(
        ordered=xp.full((*shape, window or EXACT), math.inf),
        ring=xp.full((*shape, window or 0), math.inf),
        count=xp.zeros(shape, dtype=xp.int32),
        so_far=xp.zeros((*shape, _BINS if whole or not window else 0), dtype=xp.int32),
        lowest=xp.full(shape, math.inf),
        highest=xp.full(shape, -math.inf),
    )


def add(xp: Any, history: History, value: Array, accept: Array) -> History:
    """The history with ``value`` added where ``accept`` is true; such a value must be finite."""
    ordered, ring, count, so_far, lowest, highest = history
    size = ordered.shape[-1]
    entering = xp.where(accept, value, xp.inf)  # inf comes to the end, where it changes nothing
    if ring.shape[-1]:
        here = (xp.arange(size) == (count % size)[..., None]) & accept[..., None]
        # One place at most is not 0. None at all, for a refused value, must take nothing out.
        leaving = xp.where(accept, xp.sum(xp.where(here, ring, 0.0), axis=-1), xp.inf)
        ordered = _inserted(xp, _removed(xp, ordered, leaving), entering)
        ring = xp.where(here, value[..., None], ring)
    else:
        ordered = _inserted(xp, ordered, xp.where(count < size, entering, xp.inf))
    if so_far.shape[-1]:
        place = xp.clip((xp.log(entering) - math.log(LOWEST)) / _WIDTH, 0.0, _BINS - 1.0)
        place = xp.where(accept, xp.astype(place, xp.int32), _BINS)  # astype rounds down here
        so_far = so_far + xp.astype(xp.arange(_BINS) >= place[..., None], xp.int32)
        lowest = xp.minimum(lowest, entering)
        highest = xp.where(accept, xp.maximum(highest, value), highest)
    return History(ordered, ring, count + xp.astype(accept, xp.int32), so_far, lowest, highest)


def percentile_of(xp: Any, history: History, q: float) -> Array:
    """The q-th percentile (0 to 100), with linear interpolation as in numpy; inf for an empty history.

    It is that of all values if all count, otherwise that of the recent values.
    """
    ordered, _, count, so_far, lowest, highest = history
    if not so_far.shape[-1]:
        return percentile_of_sorted(xp, ordered, count, q)
    size = ordered.shape[-1]
    ranks, share, some = _ranks(xp, count, q, ordered)
    exact = _at(xp, ordered, xp.where(ranks < size, ranks, 0))
    sketched = _of_bins(xp, so_far, ranks, ordered)
    sketched = xp.minimum(xp.maximum(sketched, lowest[..., None]), highest[..., None])
    return _between(xp, xp.where((count <= size)[..., None], exact, sketched), share, some)


def percentile_of_sorted(xp: Any, ordered: Array, count: Array, q: float) -> Array:
    """The q-th percentile of the first ``count`` of these ascending values, or of all if there are fewer."""
    size = ordered.shape[-1]
    ranks, share, some = _ranks(xp, xp.where(count < size, count, size), q, ordered)
    return _between(xp, _at(xp, ordered, ranks), share, some)


def _removed(xp: Any, ordered: Array, value: Array) -> Array:
    """``value`` removed and the gap closed; nothing changes if it is inf."""
    after = xp.concat([ordered[..., 1:], xp.full((*ordered.shape[:-1], 1), math.inf)], axis=-1)
    return xp.where(ordered < value[..., None], ordered, after)


def _inserted(xp: Any, ordered: Array, value: Array) -> Array:
    """``value`` inserted in order; the last value is dropped."""
    size = ordered.shape[-1]
    before = xp.concat([xp.full((*ordered.shape[:-1], 1), -math.inf), ordered[..., : size - 1]], axis=-1)
    return xp.minimum(xp.maximum(before, value[..., None]), ordered)


def _ranks(xp: Any, count: Array, q: float, like: Array) -> tuple[Array, Array, Array]:
    """The two ranks (0 for the smallest) between which the percentile lies, ``shape + (2,)``.

    Also the weight of the second one, and whether the history holds any value.
    """
    some = count > 0
    last = count - xp.astype(some, xp.int32)
    rank = xp.astype(last, like.dtype) * (q / 100.0)
    floor = xp.floor(rank)
    low = xp.astype(floor, xp.int32)
    high = xp.where(low < last, low + 1, last)
    return xp.concat([low[..., None], high[..., None]], axis=-1), rank - floor, some


def _at(xp: Any, ordered: Array, ranks: Array) -> Array:
    # torch takes int64 to index by and JAX has none; a sum has, in each, the type to index by.
    return xp.take_along_axis(ordered, xp.sum(ranks[..., None], axis=-1), axis=-1)


def _of_bins(xp: Any, so_far: Array, ranks: Array, like: Array) -> Array:
    """The centres of the bins that hold the values of these ranks."""
    low, high = (
        xp.sum(xp.astype(so_far <= rank, xp.int32), axis=-1, keepdims=True, dtype=xp.int32)
        for rank in (ranks[..., :1], ranks[..., 1:])
    )
    place = xp.astype(xp.concat([low, high], axis=-1), like.dtype)
    edge = xp.exp(place * _WIDTH + math.log(LOWEST))
    # In the sense that its error to either edge is the same share: 2ab / (a + b).
    return edge * (2.0 / (1.0 + math.exp(-_WIDTH)))


def _between(xp: Any, ends: Array, share: Array, some: Array) -> Array:
    ends = xp.where(some[..., None], ends, 0.0)  # an empty history holds inf, and inf - inf is NaN
    low = ends[..., 0]
    return xp.where(some, low + (ends[..., 1] - low) * share, xp.inf)
