"""The arithmetic of clipping on arrays that are values: norms, scaling, clamping. Pure, in any framework.

Norms and coefficients are computed in a wider float than the gradients' where there is one, and without
overflow or underflow of the squares where there is none. A framework that can do a thing better says how in a
subclass: see `arithmetic_of`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from clipwise.namespace import Array, Namespace

__all__ = ["Arithmetic"]

Axes = tuple[int, ...] | None


class Arithmetic:
    """What clipping does to arrays of one framework.

    Args:
        xp: the framework's namespace, bound to the float in which norms and thresholds are computed.
    """

    def __init__(self, xp: Namespace) -> None:
        self.xp = xp
        limits = xp.finfo(xp.float_dtype)
        # Between these a sum of squares has lost nothing, with up to a billion terms.
        self.lowest = float(limits.smallest_normal) * 1e18
        self.highest = float(limits.max) / 4.0

    # What a framework may do better.

    def cond(self, flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        """The outcome of one of two functions without arguments, of the same structure."""
        return yes() if flag else no()

    def is_complex(self, array: Array) -> bool:
        return bool(self.xp.isdtype(array.dtype, "complex floating"))

    def may_overflow(self, array: Array) -> bool:
        """Whether its squares may leave the range of the wide float."""
        return bool(float(self.xp.finfo(array.dtype).max) ** 0.5 > self.highest**0.25)

    def wide(self, array: Array) -> Array:
        """Moduli in the wide float, or the entries themselves."""
        array = self.xp.abs(array) if self.is_complex(array) else array
        return array if array.dtype == self.xp.float_dtype else self.xp.astype(array, self.xp.float_dtype)

    def square_sum(self, array: Array, axes: Axes) -> Array:
        """The sum of the squared moduli along some axes, or of all."""
        wide = self.wide(array)
        return self.xp.sum(wide * wide, axis=axes)

    def multiplied(self, array: Array, coefficient: Array) -> Array:
        """An array times a real coefficient of the wide float that can be broadcast to it."""
        xp = self.xp
        if self.is_complex(array) or array.dtype == xp.float_dtype:
            return xp.astype(array * coefficient, array.dtype)
        return xp.astype(xp.astype(array, xp.float_dtype) * coefficient, array.dtype)

    def chosen(self, arrays: Sequence[Array], coefficients: Sequence[Array]) -> list[Array]:
        """The arrays times their coefficients, and to the bit as they were where a coefficient is 1."""
        pairs = zip(arrays, coefficients, strict=True)
        return [self.xp.where(c == 1.0, array, self.multiplied(array, c)) for array, c in pairs]

    def clamped(self, array: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """A real array between two bounds of the wide float, and how many entries lay beyond."""
        xp = self.xp
        low, high = xp.astype(low, array.dtype), xp.astype(high, array.dtype)
        out = (array < low) | (array > high)
        bounded = xp.where(array < low, low, xp.where(array > high, high, array))
        return bounded, xp.sum(xp.astype(out, xp.float_dtype))

    def clamped_moduli(self, array: Array, low: Array, high: Array) -> tuple[Array, Array]:
        """A complex array with its moduli bounded by ``high``, and how many were beyond."""
        xp = self.xp
        moduli = self.wide(array)
        out = moduli > high
        coefficients = xp.where(out, high / xp.where(out, moduli, xp.ones_like(moduli)), xp.ones_like(moduli))
        return self.chosen([array], [coefficients])[0], xp.sum(xp.astype(out, xp.float_dtype))

    def only_finite(self, array: Array) -> Array:
        """The array with 0 in the place of NaN and Inf."""
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
        """The p-norm of each of several arrays, one vector of the wide float."""
        xp = self.xp
        if p != 2.0:
            return xp.stack([self._norm(array, p, None) for array in arrays])
        return self._roots(arrays, [None] * len(arrays), xp.stack)

    def unit_norms(self, array: Array, p: float, rest: Axes) -> Array:
        """The p-norms along the axes ``rest`` of one array, one vector."""
        xp = self.xp
        if p != 2.0:
            return xp.reshape(self._norm(array, p, rest), (-1,))
        return xp.reshape(self._roots([array], [rest], lambda found: found[0]), (-1,))

    def _roots(self, arrays: Sequence[Array], axes: Sequence[Axes], join: Callable[..., Array]) -> Array:
        """The roots of sums of squares: plainly where nothing is lost by it, else once more with care."""
        xp = self.xp
        sums = [self.square_sum(array, a) for array, a in zip(arrays, axes, strict=True)]
        total = join(sums)
        doubtful = [i for i, array in enumerate(arrays) if self.may_overflow(array) and 0 not in array.shape]
        if not doubtful:
            return xp.sqrt(total)
        checked = total if len(doubtful) == len(arrays) else xp.stack([sums[i] for i in doubtful])

        def carefully() -> Array:
            found = [xp.sqrt(s) for s in sums]
            for i in doubtful:
                # One by one: a gradient of nothing but zeros, which looks as if it had underflown, is common.
                root, norm = partial(xp.sqrt, sums[i]), partial(self._norm, arrays[i], 2.0, axes[i])
                found[i] = self.cond(self._is_safe(sums[i]), root, norm)
            return join(found)

        return self.cond(self._is_safe(checked), lambda: xp.sqrt(total), carefully)

    def _is_safe(self, sums: Array) -> Array:
        return self.xp.all((sums >= self.lowest) & (sums <= self.highest))

    def _norm(self, array: Array, p: float, axes: Axes) -> Array:
        """A p-norm that divides by the largest modulus first, so that no power leaves the range."""
        xp = self.xp
        shape = tuple(array.shape)
        kept = () if axes is None else tuple(n for i, n in enumerate(shape) if i not in axes)
        if 0 in shape:
            return xp.zeros(kept)
        moduli = xp.abs(self.wide(array))
        if p == 1.0:
            return xp.sum(moduli, axis=axes)
        if axes == ():
            return moduli
        largest = xp.max(moduli, axis=axes, keepdims=True)
        if p == math.inf:
            return xp.reshape(largest, kept)
        divisor = xp.where((largest > 0) & (largest < math.inf), largest, xp.ones_like(largest))
        parts = moduli / divisor
        powers = parts * parts if p == 2.0 else parts**p
        sums = xp.sum(powers, axis=axes)
        return xp.reshape(divisor, kept) * (xp.sqrt(sums) if p == 2.0 else sums ** (1.0 / p))
