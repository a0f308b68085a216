"""Gated linear units whose two halves are clamped."""

from clipwise.checks import number, positive
from clipwise.errors import ArgumentError
from clipwise.functional.inputs import floating, namespace_for, shape_of
from clipwise.namespace import Array

__all__ = ["clamped_swiglu", "split_gate_up"]


def clamped_swiglu(
    gate: Array, up: Array, *, limit: float = 7.0, alpha: float = 1.702, offset: float = 1.0
) -> Array:
    """``g * sigmoid(alpha * g) * (u + offset)``: g is ``min(gate, limit)``, u is ``up`` clipped to +-limit.

    The gate is clamped from above only, since below 0 the sigmoid closes it. The offset is 1, as in gpt-oss,
    so that the gate passes where ``up`` is 0; ``offset=0`` gives the plain product. The gradient at a limit
    is 0. With ``gate = -inf`` the result is NaN, as ``-inf * sigmoid(-inf)`` is.

    Args:
        gate, up: floating-point arrays of the same shape: the two halves of a projection, see
            `split_gate_up`.
        limit: a number above 0; inf does not clamp.
        alpha: a finite number above 0. With 1.702 the gate is nearly a GELU, with 1 it is a SiLU.
        offset: added to ``u``.

    Returns:
        An array of the shape and dtype of the inputs.

    Raises:
        ArgumentError: the shapes or frameworks differ, the arrays are not floating-point, or a number is not
            allowed.

    >>> import numpy as np
    >>> clamped_swiglu(np.array([1.0, 50.0, -50.0]), np.array([0.0, 50.0, 3.0])).round(4)
    array([ 0.8458, 55.9996, -0.    ])

    Source: OpenAI 2025, "gpt-oss-120b & gpt-oss-20b model card", arXiv:2508.10925, and its published code.
    """
    limit, alpha = positive("limit", limit), positive("alpha", alpha, finite=True)
    offset = number("offset", offset)
    xp, gate = floating("gate", gate)
    theirs, up = floating("up", up)
    if theirs.framework != xp.framework:
        raise ArgumentError(f"gate and up must be of the same framework, got {type(gate)} and {type(up)}")
    shapes = shape_of("gate", gate), shape_of("up", up)
    if shapes[0] != shapes[1]:
        raise ArgumentError(f"gate and up must have the same shape, got {shapes[0]} and {shapes[1]}")
    gate = xp.between(gate, -float("inf"), limit)
    up = xp.between(up, -limit, limit)
    return (up + offset) * (gate * xp.sigmoid(gate * alpha))


def split_gate_up(x: Array, *, interleaved: bool = True) -> tuple[Array, Array]:
    """The two halves of the last axis, ``(gate, up)``.

    Args:
        x: an array of shape ``(..., 2 * width)``.
        interleaved: True if gate and up alternate along the axis, as in gpt-oss; False if the gates come
            first.

    Returns:
        Two arrays of shape ``(..., width)``.

    Raises:
        ArgumentError: there is no last axis, or its length is odd.

    >>> import numpy as np
    >>> gate, up = split_gate_up(np.array([1.0, 10.0, 2.0, 20.0]))
    >>> gate, up
    (array([1., 2.]), array([10., 20.]))
    >>> split_gate_up(np.array([1.0, 2.0, 10.0, 20.0]), interleaved=False)[0]
    array([1., 2.])
    """
    namespace_for("x", x)
    shape = shape_of("x", x)
    if not shape or shape[-1] is None or shape[-1] % 2:
        raise ArgumentError(f"the last axis must have an even length, got the shape {shape}")
    if interleaved:
        return x[..., ::2], x[..., 1::2]
    half = shape[-1] // 2
    return x[..., :half], x[..., half:]
