"""The formula ``g <- g * min(1, threshold / norm(g))``, its part about norms: the same in every back end.

Everything takes an array namespace first and never branches on an array's value; on plain floats, for a
single norm on the host, it may.
"""

import math
from typing import Any

from clipwise.clip import Norm
from clipwise.namespace import Array

__all__ = ["coefficient", "combine", "direction", "norm_after", "order_of"]


def order_of(norm: Norm) -> float:
    """The order p in which a norm is measured: 2 for the root mean square."""
    return 2.0 if norm == "rms" else norm


def coefficient(xp: Any, norm: Array, threshold: Array) -> Array:
    """``min(1, threshold / norm)``; NaN for a NaN norm, as in every framework, unless nothing bounds it.

    >>> import numpy as np
    >>> coefficient(np, np.asarray([0.5, 4.0, 1.0]), 2.0).tolist()
    [1.0, 0.5, 1.0]
    """
    if isinstance(norm, float):
        return 1.0 if norm <= threshold or threshold == math.inf else threshold / norm
    free = (norm <= threshold) | (threshold == math.inf)
    return xp.where(free, 1.0, threshold / norm)


def norm_after(xp: Any, norm: Array, threshold: Array) -> Array:
    """The norm that scaling leaves: the threshold, where it was above it. Inf times 0 is NaN."""
    if isinstance(norm, float):
        return norm if not norm > threshold else math.nan if norm == math.inf else threshold
    above = norm > threshold
    lost = above & (norm == math.inf)
    return xp.where(lost, math.nan, xp.where(above, threshold, norm))


def combine(xp: Any, norms: Array, p: float) -> Array:
    """The p-norm of a whole from the p-norms of its parts, a vector of at least one; 0-d.

    Divided by the largest first, so that no power leaves the range.

    >>> import numpy as np
    >>> print(f"{combine(np, np.asarray([3e200, 4e200]), 2.0):.3g}")
    5e+200
    """
    largest = xp.max(norms)
    if p == math.inf:
        return largest
    divisor = xp.where((largest > 0) & (largest < math.inf), largest, 1.0)
    parts = norms / divisor
    if p == 2.0:
        return divisor * xp.sqrt(xp.sum(parts * parts))
    return divisor * xp.sum(parts**p) ** (1.0 / p)


def direction(xp: Any, norms: Array, coefficients: Array) -> Array:
    """The cosine between the parts with these 2-norms and the same parts scaled; 0-d.

    Nothing, before or after, points nowhere; that is no turn.
    """
    before, after = (x / xp.where(xp.max(x) > 0, xp.max(x), 1.0) for x in (norms, norms * coefficients))
    lengths = xp.sqrt(xp.sum(before * before)) * xp.sqrt(xp.sum(after * after))
    return xp.where(lengths == 0, 1.0, xp.sum(before * after) / lengths)
