"""The formula ``g <- g * min(1, threshold / norm(g))``: its scalar part, which all back ends share.

All functions take an array namespace first and never branch on the value of an array; for a single norm on
the host, plain floats may be branched on. All are differentiable, also at a norm of 0, where the derivative
is 0, the smallest of the subgradients.
"""

import math

from clipwise.clip import Norm
from clipwise.namespace import Array, Namespace

__all__ = ["coefficient", "combine", "direction", "norm_after", "order_of", "powers", "ratio", "root"]


def order_of(norm: Norm) -> float:
    """The order p of a norm; 2 for the root mean square."""
    return 2.0 if norm == "rms" else norm


def ratio(xp: Namespace, a: Array, b: Array, known: Array, value: float) -> Array:
    """``a / b``, or a given value where the result is known whatever b is; its derivative there is 0."""
    if xp.may_be_differentiated(b):
        # A quotient by 0 must not even be differentiated where it is not taken: 0 times Inf is NaN.
        b = xp.where(known, 1.0, b)
    return xp.where(known, value, a / b)


def root(xp: Namespace, sums: Array, p: float) -> Array:
    """The p-th root; its derivative at 0 is 0."""
    if p == 2.0:
        return xp.sqrt(sums)
    if p == 1.0:
        return sums
    some = sums != 0
    return xp.where(some, xp.where(some, sums, 1.0) ** (1.0 / p), sums)


def coefficient(xp: Namespace, norm: Array, threshold: Array) -> Array:
    """``min(1, threshold / norm)``; NaN for a NaN norm, as in every framework, unless the threshold is inf.

    >>> import numpy as np
    >>> coefficient(Namespace.bound(np.float64), np.asarray([0.5, 4.0, 1.0]), 2.0).tolist()
    [1.0, 0.5, 1.0]
    """
    if isinstance(norm, float):
        return 1.0 if norm <= threshold or threshold == math.inf else threshold / norm
    free = (norm <= threshold) | (threshold == math.inf)
    return ratio(xp, threshold, norm, free, 1.0)


def norm_after(xp: Namespace, norm: Array, threshold: Array) -> Array:
    """The norm after scaling: the threshold if the norm was above it. Inf times 0 is NaN."""
    if isinstance(norm, float):
        return norm if not norm > threshold else math.nan if norm == math.inf else threshold
    above = norm > threshold
    lost = above & (norm == math.inf)
    return xp.where(lost, math.nan, xp.where(above, threshold, norm))


def combine(xp: Namespace, norms: Array, p: float) -> Array:
    """The p-norm of a whole from the p-norms of its parts (a vector with at least one entry), 0-d.

    The parts are divided by the largest one first, so that powers do not overflow.

    >>> import numpy as np
    >>> print(f"{combine(Namespace.bound(np.float64), np.asarray([3e200, 4e200]), 2.0):.3g}")
    5e+200
    """
    largest = xp.max(norms)
    if p == math.inf:
        return largest
    # A norm is homogeneous, so that a divisor which counts as constant changes no derivative.
    divisor = xp.stop_gradient(xp.where((largest > 0) & (largest < math.inf), largest, 1.0))
    parts = norms / divisor
    return divisor * root(xp, xp.sum(powers(xp, parts, p)), p)


def powers(xp: Namespace, moduli: Array, p: float) -> Array:
    """The p-th powers of numbers of at least 0; the derivative at 0 is 0."""
    if p == 2.0:
        return moduli * moduli
    if p >= 1.0:
        return moduli**p
    some = moduli != 0
    return xp.where(some, xp.where(some, moduli, 1.0) ** p, moduli)


def direction(xp: Namespace, before: Array, after: Array, sizes: tuple[Array, Array]) -> Array:
    """The cosine between the whole before and after scaling its parts, from 2-norms; 0-d.

    1 if one of them is 0, since a zero vector has no direction.

    Args:
        before, after: one norm per part.
        sizes: the norms of the whole, before and after.
    """
    nothing = (sizes[0] == 0) | (sizes[1] == 0)
    a, b = (ratio(xp, norms, size, nothing, 0.0) for norms, size in zip((before, after), sizes, strict=True))
    return xp.where(nothing, 1.0, xp.sum(a * b))
