"""A bounded history of norms, one a group, and its percentiles: exact while short, a sketch when long.

The values that count are kept sorted: one that comes or goes moves the others by one place, so a percentile
is two reads and nothing is ever sorted. Where the whole history counts, every norm is also counted in a
logarithmic histogram; once there are more norms than the sorted places, percentiles are read from there,
with a relative error of at most `SKETCH_ERROR`, and never beyond the smallest and largest norm. So the state
has a fixed size, needs no sync, and never has to be traced again. Source of the histogram: DDSketch,
Masson, Rim and Lee 2019, arXiv:1908.10693.
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
        ordered: the values that count in ascending order, inf in free places behind; ``shape + (size,)``.
        ring: the same values by time, the n-th in place n % size; ``shape + (size,)``, or no places where
            only the whole history counts: then the first ``size`` values stay in ``ordered``.
        count: how many values were added; ``shape``.
        so_far: how many of them fell into each bin or one below; ``shape + (bins,)``, no bins where only the
            last values count.
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
    """The q-th percentile (0 to 100), linear between neighbours as numpy's; inf where nothing was added.

    Of all values where all count, else of the last.
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
    """The q-th percentile of the ``count`` first of these ascending values, of all if there are fewer."""
    size = ordered.shape[-1]
    ranks, share, some = _ranks(xp, xp.where(count < size, count, size), q, ordered)
    return _between(xp, _at(xp, ordered, ranks), share, some)


def _removed(xp: Any, ordered: Array, value: Array) -> Array:
    """One of the places that hold ``value`` closed up; nothing where it is inf."""
    after = xp.concat([ordered[..., 1:], xp.full((*ordered.shape[:-1], 1), math.inf)], axis=-1)
    return xp.where(ordered < value[..., None], ordered, after)


def _inserted(xp: Any, ordered: Array, value: Array) -> Array:
    """``value`` in its place, those above it one further; the last falls out."""
    size = ordered.shape[-1]
    before = xp.concat([xp.full((*ordered.shape[:-1], 1), -math.inf), ordered[..., : size - 1]], axis=-1)
    return xp.minimum(xp.maximum(before, value[..., None]), ordered)


def _ranks(xp: Any, count: Array, q: float, like: Array) -> tuple[Array, Array, Array]:
    """The ranks (0 for the smallest) that the percentile lies between, ``shape + (2,)``.

    And how far it is from the one to the other, and whether there is any value at all.
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
    """The middles of the bins that hold the values of these ranks."""
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
