"""The formula ``g <- g * min(1, threshold / norm(g))``, its part about norms: the same in every back end.

Everything takes an array namespace first and never branches on an array's value; on plain floats, for a
single norm on the host, it may. All of it can be differentiated, at a norm of 0 too, whose derivative is 0:
the smallest of its subgradients.
"""

import math

from clipwise.clip import Norm
from clipwise.namespace import Array, Namespace

__all__ = ["coefficient", "combine", "direction", "norm_after", "order_of", "powers", "ratio", "root"]


def order_of(norm: Norm) -> float:
    """The order p in which a norm is measured: 2 for the root mean square."""
    return 2.0 if norm == "rms" else norm


def ratio(xp: Namespace, a: Array, b: Array, known: Array, value: float) -> Array:
    """``a / b``, and a value where that is known, whatever b is; there the derivative is 0."""
    if xp.may_be_differentiated(b):
        # A quotient by 0 must not even be differentiated where it is not taken: 0 times Inf is NaN.
        b = xp.where(known, 1.0, b)
    return xp.where(known, value, a / b)


def root(xp: Namespace, sums: Array, p: float) -> Array:
    """The p-th root; at 0 its derivative is 0."""
    if p == 2.0:
        return xp.sqrt(sums)
    if p == 1.0:
        return sums
    some = sums != 0
    return xp.where(some, xp.where(some, sums, 1.0) ** (1.0 / p), sums)


def coefficient(xp: Namespace, norm: Array, threshold: Array) -> Array:
    """``min(1, threshold / norm)``; NaN for a NaN norm, as in every framework, unless nothing bounds it.

    >>> import numpy as np
    >>> coefficient(Namespace.bound(np.float64), np.asarray([0.5, 4.0, 1.0]), 2.0).tolist()
    [1.0, 0.5, 1.0]
    """
    if isinstance(norm, float):
        return 1.0 if norm <= threshold or threshold == math.inf else threshold / norm
    free = (norm <= threshold) | (threshold == math.inf)
    return ratio(xp, threshold, norm, free, 1.0)


def norm_after(xp: Namespace, norm: Array, threshold: Array) -> Array:
    """The norm that scaling leaves: the threshold, where it was above it. Inf times 0 is NaN."""
    if isinstance(norm, float):
        return norm if not norm > threshold else math.nan if norm == math.inf else threshold
    above = norm > threshold
    lost = above & (norm == math.inf)
    return xp.where(lost, math.nan, xp.where(above, threshold, norm))


def combine(xp: Namespace, norms: Array, p: float) -> Array:
    """The p-norm of a whole from the p-norms of its parts, a vector of at least one; 0-d.

    Divided by the largest first, so that no power leaves the range.

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
    """The p-th powers of numbers of at least 0; at 0 their derivative is 0."""
    if p == 2.0:
        return moduli * moduli
    if p >= 1.0:
        return moduli**p
    some = moduli != 0
    return xp.where(some, xp.where(some, moduli, 1.0) ** p, moduli)


def direction(xp: Namespace, before: Array, after: Array, sizes: tuple[Array, Array]) -> Array:
    """The cosine between parts with these 2-norms and the same parts scaled to others; 0-d.

    Nothing, before or after, points nowhere; that is no turn.

    Args:
        before, after: one norm a part.
        sizes: the norms of the wholes, before and after.
    """
    nothing = (sizes[0] == 0) | (sizes[1] == 0)
    a, b = (ratio(xp, norms, size, nothing, 0.0) for norms, size in zip((before, after), sizes, strict=True))
    return xp.where(nothing, 1.0, xp.sum(a * b))
