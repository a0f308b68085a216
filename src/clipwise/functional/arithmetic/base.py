"""Array operations of clipping: norms, scaling and clamping. Pure functions, in any framework.

Norms and coefficients are computed in a wider float than the gradients' if there is one; otherwise squares
are scaled so that they neither overflow nor underflow. A framework that can do better has a subclass: see
`arithmetic_of`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from clipwise.functional import scaling
from clipwise.namespace import Array, Namespace

Axes = tuple[int, ...] | None


class Arithmetic:
    """Array operations of clipping for one framework.

    Args:
        xp: the framework's namespace, bound to the float type of norms and thresholds.
    """

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp
        limits = xp.finfo(xp.float_dtype)
        # Between these a sum of squares has lost nothing, with up to a billion terms.
        self.lowest = float(limits.smallest_normal) * 1e18
        self.highest = float(limits.max) / 4.0

    # What a framework may do better.

    def cond(self, flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        """The result of one of two functions without arguments; both results have the same structure."""
        return yes() if flag else no()

    def settled(self, array: Array) -> Array:
        """The same array, marked as a value from which many others will be computed."""
        return array

    def is_complex(self, array: Array) -> bool:
        return bool(self.xp.isdtype(array.dtype, "complex floating"))

    def may_overflow(self, array: Array) -> bool:
        """Whether squares of the array may overflow the wide float."""
        return bool(float(self.xp.finfo(array.dtype).max) ** 0.5 > self.highest**0.25)

    def squares_fit(self, array: Array) -> bool:
        """Whether the square of the norm of up to a billion entries fits the wide float."""
        return bool(float(self.xp.finfo(array.dtype).max) ** 0.5 * 1e5 < self.highest**0.25)

    def wide(self, array: Array) -> Array:
        """Moduli in the wide float, or the entries themselves."""
        array = self.xp.abs(array) if self.is_complex(array) else array
        return array if array.dtype == self.xp.float_dtype else self.xp.astype(array, self.xp.float_dtype)

    def square_sum(self, array: Array, axes: Axes) -> Array:
        """The sum of the squared moduli along some axes, or of all."""
        wide = self.wide(array)
        return self.xp.sum(wide * wide, axis=axes)

    def multiplied(self, array: Array, coefficient: Array) -> Array:
        """An array times a real coefficient of the wide float that broadcasts to it."""
        xp = self.xp
        if self.is_complex(array) or array.dtype == xp.float_dtype:
            return xp.astype(array * coefficient, array.dtype)
        return xp.astype(xp.astype(array, xp.float_dtype) * coefficient, array.dtype)

    def chosen(self, arrays: Sequence[Array], coefficients: Sequence[Array]) -> list[Array]:
        """The arrays times their coefficients; bit-identical where a coefficient is 1."""
        pairs = zip(arrays, coefficients, strict=True)
        return [self.xp.where(c == 1.0, array, self.multiplied(array, c)) for array, c in pairs]

    def clamped(self, array: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """A real array clamped between bounds of the wide float, and how many entries were beyond."""
        xp = self.xp
        low, high = xp.astype(low, array.dtype), xp.astype(high, array.dtype)
        out = (array < low) | (array > high)
        bounded = xp.where(array < low, low, xp.where(array > high, high, array))
        return bounded, xp.sum(xp.astype(out, xp.float_dtype))

    def clamped_moduli(self, array: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """A complex array with its moduli clamped to ``high``, and the number of entries that were beyond."""
        xp = self.xp
        moduli = self.wide(array)
        out = moduli > high
        coefficients = xp.where(out, high / xp.where(out, moduli, xp.ones_like(moduli)), xp.ones_like(moduli))
        return self.chosen([array], [coefficients])[0], xp.sum(xp.astype(out, xp.float_dtype))

    def emptied(self, arrays: Sequence[Array], flag: Array) -> list[Array]:
        """Zeros in place of the arrays if a flag is set, otherwise the arrays."""
        return [self.xp.where(flag, self.xp.zeros_like(array), array) for array in arrays]

    def only_finite(self, array: Array) -> Array:
        """The array with NaN and Inf replaced by 0."""
        return self.xp.where(self.xp.isfinite(array), array, self.xp.zeros_like(array))

    def dot(self, first: Array, second: Array, a: Array, b: Array) -> Array:
        """The real inner product of ``first / a`` and ``second / b``, 0-d."""
        xp = self.xp
        if self.is_complex(first):
            real, imaginary = ((part(first), part(second)) for part in (xp.real, xp.imag))
            return self.dot(*real, a, b) + self.dot(*imaginary, a, b)
        return xp.sum((self.wide(first) / a) * (self.wide(second) / b))

    # What is the same for all.

    def norms(self, arrays: Sequence[Array], p: float) -> Array:
        """The p-norms of several arrays, one vector in the wide float."""
        return self.xp.stack(self.norms_along(arrays, p, [None] * len(arrays)))

    def norms_along(self, arrays: Sequence[Array], p: float, axes: Sequence[Axes]) -> list[Array]:
        """The p-norm of each of several arrays along some axes of it, or of all its entries."""
        xp = self.xp
        if p != 2.0:
            return self._carefully(arrays, p, axes)
        sums = [self.square_sum(array, along) for array, along in zip(arrays, axes, strict=True)]
        doubtful = [i for i, array in enumerate(arrays) if self.may_overflow(array) and 0 not in array.shape]
        if not doubtful:
            return [xp.sqrt(s) for s in sums]
        checked = xp.concat([xp.reshape(sums[i], (-1,)) for i in doubtful])
        # A sum of 0 among others is one: parts of a model without a gradient are common, and below 1e-19 the
        # entries of float32 mean as little. If nothing is above 0, all may have been lost.
        some = xp.astype(checked != 0, xp.int32)
        kept = (checked == 0) | ((checked >= self.lowest) & (checked <= self.highest))
        state = xp.max(xp.where(kept, some, 2))  # by one reduction: 1 if all are kept and any is above 0

        def plainly() -> list[Array]:
            return [xp.sqrt(s) for s in sums]

        found: list[Array] = self.cond(state == 1, plainly, partial(self._carefully, arrays, p, axes))
        return found

    def unit_norms(self, arrays: Sequence[Array], p: float, rests: Sequence[Axes]) -> Array:
        """The p-norms along the axes ``rests`` of several arrays, one vector for all of them."""
        xp = self.xp
        return xp.concat([xp.reshape(norms, (-1,)) for norms in self.norms_along(arrays, p, rests)])

    def joined(self, units: Array, counts: Sequence[int], p: float) -> Array:
        """The p-norms of several arrays from those of their units, one vector."""
        ends = itertools.accumulate(counts)
        parts = [units[end - count : end] for end, count in zip(ends, counts, strict=True)]
        return self.xp.stack([scaling.combine(self.xp, part, p) for part in parts])

    def _carefully(self, arrays: Sequence[Array], p: float, axes: Sequence[Axes]) -> list[Array]:
        return [self._norm(array, p, along) for array, along in zip(arrays, axes, strict=True)]

    def _norm(self, array: Array, p: float, axes: Axes) -> Array:
        """A p-norm that divides by the largest modulus first, so that no power leaves the range."""
        xp = self.xp
        shape = tuple(array.shape)
        kept = () if axes is None else tuple(n for i, n in enumerate(shape) if i not in axes)
        if 0 in shape:
            return xp.zeros(kept)
        entries = self.wide(array)
        moduli = xp.abs(entries)
        if p == 1.0:
            return xp.sum(moduli, axis=axes)
        if axes == ():
            return moduli
        largest = xp.max(moduli, axis=axes, keepdims=True)
        if p == math.inf:
            return xp.reshape(largest, kept)
        divisor = xp.where((largest > 0) & (largest < math.inf), largest, xp.ones_like(largest))
        divisor = xp.stop_gradient(divisor)  # which changes no derivative: a norm is homogeneous
        # A compiler that fuses would keep moduli that are read twice: as many bytes as the gradients.
        parts = (entries if p == 2.0 else moduli) / divisor
        sums = xp.sum(scaling.powers(xp, parts, p), axis=axes)
        return xp.reshape(divisor, kept) * scaling.root(xp, sums, p)
