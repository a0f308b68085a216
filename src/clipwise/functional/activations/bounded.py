"""Activations between two bounds, given or learned."""

import numpy as np

from clipwise.checks import bounds_of, number, positive
from clipwise.errors import ArgumentError
from clipwise.functional.inputs import broadcasts, fits, floating, shape_of
from clipwise.namespace import Array, Namespace

__all__ = ["clipped_relu", "hard_tanh", "pact"]


def clipped_relu(x: Array, bound: float = 6.0) -> Array:
    """ReLU with an upper bound: ``min(max(x, 0), bound)``; ReLU6 for a bound of 6.

    The gradient is 1 strictly between 0 and the bound, and 0 elsewhere. NaN stays NaN.

    Args:
        x: a floating-point array of any shape.
        bound: a number above 0; inf gives plain ReLU.

    Returns:
        An array of the shape and dtype of ``x``.

    Raises:
        ArgumentError: ``x`` is not floating-point, or the bound is NaN or not above 0.

    >>> import numpy as np
    >>> clipped_relu(np.array([-1.0, 0.5, 7.0, np.inf]))
    array([0. , 0.5, 6. , 6. ])

    Source: Krizhevsky 2010, "Convolutional deep belief networks on CIFAR-10"; Howard et al. 2017,
    arXiv:1704.04861.
    """
    bound = positive("bound", bound)
    xp, x = floating("x", x)
    return xp.between(x, 0.0, bound)


def hard_tanh(
    x: Array, low: Array | float = -1.0, high: Array | float = 1.0, *, axis: int | None = None
) -> Array:
    """``min(max(x, low), high)``, with one bound for all entries or one for each, as in `numpy.clip`.

    The gradient is 1 strictly between the bounds, and 0 elsewhere. (In `jax.nn.hard_tanh` it is also 1 at
    exactly -1 and 1.) If a bound is an array, it receives the gradient of the entries at or beyond it. NaN
    stays NaN.

    Args:
        x: a floating-point array of any shape.
        low, high: numbers with ``low < high``, either of which may be infinite; or arrays, of the shapes that
            ``alpha`` of `pact` may have. Arrays are not checked for ``low < high``; where low is above high,
            the result is high.
        axis: the axis of ``x`` that arrays of shape ``(x.shape[axis],)`` lie along.

    Returns:
        An array of the shape and dtype of ``x``.

    Raises:
        ArgumentError: ``x`` is not floating-point, a shape does not fit, or numbers are NaN or not ascending.

    >>> import numpy as np
    >>> hard_tanh(np.array([-3.0, 0.25, 2.0]), high=1.5)
    array([-1.  ,  0.25,  1.5 ])
    >>> hard_tanh(np.array([-3.0, 0.25, 2.0]), np.array([-2.0, 0.5, -1.0]), np.inf)
    array([-2. ,  0.5,  2. ])

    Source: Collobert 2004, "Large scale machine learning".
    """
    xp, x = floating("x", x)
    if _is_number(low) and _is_number(high):
        return xp.between(x, *bounds_of(low, high))
    bottom, top = (_bound(xp, name, value, x, axis) for name, value in (("low", low), ("high", high)))
    # A NaN among the bounds comes out, as min and max would have it.
    above = xp.where((x <= bottom) | (bottom != bottom), bottom, x)
    return xp.where((above >= top) | (top != top), top, above)


def pact(x: Array, alpha: Array | float, *, axis: int | None = None) -> Array:
    """ReLU with a learned upper bound: ``y = min(max(x, 0), alpha)``.

    The gradient is that of the paper: ``dy/dalpha = 1`` where ``x >= alpha``, else 0; ``dy/dx = 1`` where
    ``0 < x < alpha``, else 0. So an entry at the bound changes alpha, and nothing flows back through it.

    Args:
        x: a floating-point array of any shape.
        alpha: a number above 0, or an array: of shape ``()`` or ``(1,)``, of a shape that broadcasts to that
            of ``x``, or, with ``axis``, of shape ``(x.shape[axis],)``. It is converted to the dtype of x; its
            gradient is summed in float32 or wider. A learned alpha is not kept above 0. If it is below, ``y``
            is alpha where ``x >= alpha``, else 0.
        axis: the axis of ``x`` that ``alpha`` lies along: 1 for channels in PyTorch, -1 in Keras.

    Returns:
        An array of the shape and dtype of ``x``.

    Raises:
        ArgumentError: ``x`` is not floating-point, a shape does not fit, or a number is NaN or not above 0.

    >>> import numpy as np
    >>> pact(np.array([[-1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 3.0]), axis=1)
    array([[0., 2.],
           [1., 3.]])

    Source: Choi et al. 2018, "PACT: parameterized clipping activation for quantized neural networks",
    arXiv:1805.06085.
    """
    xp, x = floating("x", x)
    bound = _bound(xp, "alpha", positive("alpha", alpha) if _is_number(alpha) else alpha, x, axis)
    # A NaN among the bounds comes out, as min and max would have it.
    clipped = (x >= bound) | (bound != bound)
    return xp.where(clipped, bound, xp.where(x <= 0, xp.like(0.0), x))


def _is_number(value: Array | float) -> bool:
    return not hasattr(value, "dtype") or isinstance(value, np.generic)


def _bound(xp: Namespace, name: str, value: Array | float, x: Array, axis: int | None) -> Array:
    """A number, or an array of the framework of ``x`` or of numpy, as a bound of ``x`` in its dtype."""
    if _is_number(value):
        return xp.like(number(name, value))
    theirs, value = floating(name, value)
    if theirs.framework not in ("numpy", xp.framework):
        raise ArgumentError(f"{name} must be of the framework of x, got {type(value).__name__}")
    value = value if theirs.framework == xp.framework else xp.like(value)
    return _spread(xp, _along(xp, name, value, x, axis), x)


def _spread(xp: Namespace, bound: Array, x: Array) -> Array:
    """The bound in the dtype of ``x``; its gradient is summed in float32 at least."""
    if not xp.may_be_differentiated(bound) or xp.finfo(x.dtype).bits >= 32:
        return xp.like(bound)
    return xp.astype(xp.broadcast_like(xp.like(bound, dtype=xp.float32), x), x.dtype)


def _along(xp: Namespace, name: str, bound: Array, x: Array, axis: int | None) -> Array:
    """The bounds in a shape that broadcasts to ``x`` without making it larger."""
    found = shape_of(name, bound)
    if axis is None and not found:
        return bound
    shape = shape_of("x", x)
    if axis is not None and len(found) == 1 and -len(shape) <= axis < len(shape):
        if fits(found[0], shape[axis]):
            broad = [1] * len(shape)
            broad[axis] = -1
            return xp.reshape(bound, broad)
    elif axis is None and found == (1,) and not shape:
        return xp.reshape(bound, ())
    elif axis is None and broadcasts(found, shape):
        return bound
    where = "" if axis is None else f" along axis {axis}"
    raise ArgumentError(f"{name} of shape {found} does not fit x of shape {shape}{where}")
