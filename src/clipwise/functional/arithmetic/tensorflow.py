"""Array operations on TensorFlow tensors: eager, traced, or compiled by XLA. Norms are float64."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from clipwise.functional.arithmetic.base import Arithmetic, Axes
from clipwise.namespace import Array, make_namespace

BLOCK = 16
"""How many float32 squares of a unit are added before the sum goes on in float64."""

PART = 1 << 18
"""How many float32 squares of a tensor are, in a trace: XLA adds many one by one, which loses digits."""

SLAB = 64
"""How many parts are written out in a trace; there is a loop over more."""

LITTLE = 1 << 12
"""Up to here the operation costs more than its entries: those of one shape are stacked, measured at once."""

NARROW = (tf.float16, tf.bfloat16, tf.float32)
"""What is squared in float32."""

EXACT = {tf.float32: (1.2e-20, 8e37), tf.float64: (2.3e-290, 4e307)}
"""Between these a sum of squares has lost nothing, with up to a billion terms."""

SMALLEST = 1e-30
"""From here on float32 holds a coefficient with all its digits."""


class TensorFlowArithmetic(Arithmetic):
    """TensorFlow tensors. Gradients in float32 stay float32; their sums and norms are float64."""

    def __init__(self, like: Array = None) -> None:
        super().__init__(make_namespace("tensorflow", tf.float64))

    def cond(self, flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        if tf.executing_eagerly():
            return yes() if flag else no()
        return tf.cond(flag, yes, no)

    def may_overflow(self, array: Array) -> bool:
        return array.dtype in (tf.bfloat16, tf.float32, tf.float64, tf.complex128)

    def wide(self, array: Array) -> Array:
        if self.is_complex(array):
            return tf.abs(tf.cast(array, tf.complex128))
        return tf.cast(array, tf.float64)

    def square_sum(self, array: Array, axes: Axes) -> Array:
        if array.dtype not in NARROW:
            return super().square_sum(array, axes)
        array = tf.cast(array, tf.float32)
        return _square_sum(array) if axes is None else _square_sums(array, axes)

    def norms(self, arrays: Sequence[Array], p: float) -> Array:
        """As in the base; where all squares are of float32, all but their sums is done to one vector."""
        if p != 2.0 or any(a.dtype not in NARROW or 0 in tuple(a.shape) for a in arrays):
            return super().norms(arrays, p)
        groups, alone = _by_shape(arrays)
        # Stacked outside the branches: each array that goes into one costs, taken or not.
        wholes = [tf.reshape(tf.stack([arrays[i] for i in group]), (len(group), -1)) for group in groups]
        rest = [arrays[i] for i in alone]

        def plainly() -> Array:
            return self.xp.sqrt(sums)

        def carefully() -> Array:
            found = [self._norm(whole, p, (1,)) for whole in wholes]
            return _joined([*found, *_stacked([self._norm(array, p, None) for array in rest])])

        rows = [_square_sums(tf.cast(whole, tf.float32), (1,)) for whole in wholes]
        sums = _joined([*rows, *_square_sums_of_all(rest)])
        if any(array.dtype != tf.float16 for array in arrays):  # float32 holds the squares of those
            norms = self.cond(_are_exact([sums], [tf.float32]), plainly, carefully)
        else:
            norms = plainly()
        order = [*itertools.chain(*groups), *alone]
        return norms if order == sorted(order) else tf.gather(norms, np.argsort(order))

    def norms_along(self, arrays: Sequence[Array], p: float, axes: Sequence[Axes]) -> list[Array]:
        if p != 2.0:
            return super().norms_along(arrays, p, axes)
        sums = [self.square_sum(array, along) for array, along in zip(arrays, axes, strict=True)]
        doubtful = [i for i, a in enumerate(arrays) if self.may_overflow(a) and 0 not in tuple(a.shape)]

        def plainly() -> list[Array]:
            return [self.xp.sqrt(s) for s in sums]

        if not doubtful:
            return plainly()
        exact = _are_exact([sums[i] for i in doubtful], [arrays[i].dtype for i in doubtful])
        return list(self.cond(exact, plainly, partial(self._carefully, arrays, p, axes)))

    def _norm(self, array: Array, p: float, axes: Axes) -> Array:
        if 0 not in tuple(array.shape) and array.dtype in NARROW:
            if p == 2.0:  # float64 holds their squares
                return self.xp.sqrt(tf.reduce_sum(tf.square(tf.cast(array, tf.float64)), axes))
            if p == math.inf:
                return tf.cast(tf.reduce_max(tf.abs(array), axes), tf.float64)
        return super()._norm(array, p, axes)

    def multiplied(self, array: Array, coefficient: Array, dtype: Any = tf.float64) -> Array:
        """An array times a coefficient, computed in ``dtype`` if that is not float64."""
        if self.is_complex(array):
            real, imaginary = (
                self.multiplied(f(array), coefficient, dtype) for f in (tf.math.real, tf.math.imag)
            )
            return tf.complex(real, imaginary)
        dtype = tf.float64 if array.dtype == tf.float64 else dtype
        return tf.cast(tf.cast(array, dtype) * tf.cast(coefficient, dtype), array.dtype)

    def chosen(self, arrays: Sequence[Array], coefficients: Sequence[Array]) -> list[Array]:
        """As in the base. Where all coefficients are 1 nothing is written, but little arrays in a trace."""
        first = coefficients[0]
        shared = first.shape.rank == 0 and all(c is first for c in coefficients)
        groups, alone = _by_shape(arrays) if shared else ([], range(len(arrays)))
        found: dict[int, Array] = dict.fromkeys(range(len(arrays)))
        for group in groups:
            whole = tf.stack([arrays[i] for i in group])
            # Not all times 1: TensorFlow makes 0 of a denormal product.
            whole = tf.where(first == 1.0, whole, self.multiplied(whole, first))
            found.update(zip(group, tf.unstack(whole, len(group)), strict=True))
        if alone:
            rest = self._chosen([arrays[i] for i in alone], [coefficients[i] for i in alone], shared)
            found.update(zip(alone, rest, strict=True))
        return list(found.values())

    def _chosen(self, arrays: Sequence[Array], coefficients: Sequence[Array], shared: bool) -> list[Array]:
        every = coefficients[0] if shared else tf.concat([tf.reshape(c, (-1,)) for c in coefficients], 0)

        def scaled(dtype: Any) -> list[Array]:
            if shared:
                narrow = tf.cast(every, dtype)
                return [self.multiplied(a, narrow if a.dtype in NARROW else every, dtype) for a in arrays]
            pairs = zip(arrays, coefficients, strict=True)
            return [tf.where(c == 1.0, array, self.multiplied(array, c, dtype)) for array, c in pairs]

        ways: list[Callable[[], list[Array]]]
        ways = [lambda: list(arrays), partial(scaled, tf.float32), partial(scaled, tf.float64)]
        ones, small = every == 1.0, ~((every >= SMALLEST) | (every == 0.0))  # and NaN
        if not shared:
            ones, small = tf.reduce_all(ones), tf.reduce_any(small)
        way = tf.where(ones, 0, tf.where(small, 2, 1))
        if tf.executing_eagerly():
            return ways[int(way)]()
        return list(tf.switch_case(way, ways))

    def emptied(self, arrays: Sequence[Array], flag: Array) -> list[Array]:
        """As in the base; what is long passes through a branch, so that it is not written once more."""
        long = [array for array in arrays if (array.shape.num_elements() or LITTLE + 1) > LITTLE]
        short = iter(super().emptied([a for a in arrays if not any(a is one for one in long)], flag))
        if not long:
            return list(short)
        kept = iter(self.cond(flag, lambda: [tf.zeros_like(a) for a in long], lambda: list(long)))
        return [next(kept if any(a is one for one in long) else short) for a in arrays]

    def clamped(self, array: Array, low: Array, high: Array) -> tuple[Array, Array]:
        low, high = tf.cast(low, array.dtype), tf.cast(high, array.dtype)
        below, above = array < low, array > high
        out = below | above
        count = tf.cast(out, tf.int32)
        if array.shape.rank:
            count = tf.reduce_sum(count, -1)  # before int64, which would be twice the gradient
        bounded = tf.where(below, low, tf.where(above, high, array))
        return bounded, tf.cast(tf.reduce_sum(tf.cast(count, tf.int64)), tf.float64)


def _by_shape(arrays: Sequence[Array]) -> tuple[list[list[int]], list[int]]:
    """The places of little arrays, those of one shape together, and of the others, long ones last."""
    groups: dict[Any, list[int]] = {}
    for place, array in enumerate(arrays):
        if array.dtype in NARROW and 0 < (array.shape.num_elements() or 0) <= LITTLE:
            groups.setdefault((array.dtype, tuple(array.shape)), []).append(place)
    if tf.executing_eagerly():
        return [], list(range(len(arrays)))
    found = [places for places in groups.values() if len(places) > 2]
    taken = set(itertools.chain(*found))
    alone = [place for place in range(len(arrays)) if place not in taken]
    return found, sorted(alone, key=lambda place: _is_long(arrays[place]))


def _joined(vectors: Sequence[Array]) -> Array:
    return tf.concat(vectors, 0) if len(vectors) > 1 else vectors[0]


def _stacked(numbers: Sequence[Array]) -> list[Array]:
    return [tf.stack(numbers)] if numbers else []


def _square_sums_of_all(arrays: Sequence[Array]) -> list[Array]:
    """The sums of the squares of arrays narrower than float64, long ones last, as vectors of float64."""
    arrays = [tf.cast(array, tf.float32) for array in arrays]
    halves = _stacked([tf.nn.l2_loss(array) for array in arrays if not _is_long(array)])
    wide = _stacked([_square_sum(array) for array in arrays if _is_long(array)])
    return [2.0 * tf.cast(part, tf.float64) for part in halves] + wide


def _is_long(array: Array) -> bool:
    """Whether it is measured in parts. Eagerly TensorFlow's own kernel runs, which adds in a tree."""
    count = array.shape.num_elements()
    return not tf.executing_eagerly() and count is not None and count > PART


def _square_sum(array: Array) -> Array:
    """The sum of all squares of a float32 array, float64."""
    if not _is_long(array):  # a trace may come to run under XLA
        return 2.0 * tf.cast(tf.nn.l2_loss(array), tf.float64)
    flat = tf.reshape(array, (-1,))
    slab = SLAB * PART
    slabs, left = divmod(array.shape.num_elements(), slab)

    def add(place: Array, total: Array) -> tuple[Array, Array]:
        return place + 1, total + _sum_of_parts(tf.slice(flat, [place * slab], [slab]))

    total = tf.zeros((), tf.float64)
    if slabs:
        _, total = tf.while_loop(lambda place, _: place < slabs, add, (0, total), maximum_iterations=slabs)
    return total + _sum_of_parts(flat[slabs * slab :]) if left else total


def _sum_of_parts(flat: Array) -> Array:
    """The sum of the squares of some float32 entries, part by part."""
    parts, left = divmod(flat.shape[0], PART)
    sums = [tf.nn.l2_loss(flat[parts * PART :])] if left else []
    if parts:
        whole = tf.reshape(flat[: parts * PART], (parts, PART))
        sums += [tf.nn.l2_loss(part) for part in tf.split(whole, parts)]
    return 2.0 * tf.reduce_sum(tf.cast(tf.stack(sums), tf.float64))


def _square_sums(array: Array, axes: tuple[int, ...]) -> Array:
    """The sums of the squares of a float32 array along some axes, float64."""
    squares, shape = tf.square(array), array.shape
    longest = max(axes, key=lambda axis: shape[axis], default=None)
    if longest is None or shape[longest] < BLOCK:
        return tf.reduce_sum(tf.cast(squares, tf.float64), axes)
    blocks, left = divmod(shape[longest], BLOCK)
    main, rest = tf.split(squares, [blocks * BLOCK, left], longest)
    main = tf.reshape(main, (*shape[:longest], blocks, BLOCK, *shape[longest + 1 :]))
    total = tf.reduce_sum(tf.cast(tf.reduce_sum(main, longest + 1), tf.float64), axes)
    return total + tf.reduce_sum(tf.cast(rest, tf.float64), axes) if left else total


def _are_exact(sums: Sequence[Array], dtypes: Sequence[Any]) -> Array:
    """Whether no square was lost: all sums are in range, or 0 beside others that are not; as in the base."""
    flat = tf.concat([tf.reshape(s, (-1,)) for s in sums], 0)
    limits = [EXACT[tf.float32 if dtype in NARROW else tf.float64] for dtype in dtypes]
    low: Any
    high: Any
    if len(set(limits)) == 1:
        low, high = limits[0]
    else:
        sizes = [s.shape.num_elements() for s in sums]
        low, high = (np.repeat(bounds, sizes) for bounds in zip(*limits, strict=True))
    kept = (flat <= high) & ((flat >= low) | (flat == 0.0))
    return tf.reduce_all(kept) & tf.reduce_any(flat > 0.0)
