"""Soft capping: an upper bound that is approached but not reached."""

from clipwise.checks import positive
from clipwise.functional.inputs import floating
from clipwise.namespace import Array

__all__ = ["soft_cap"]


def soft_cap(x: Array, cap: float) -> Array:
    """``cap * tanh(x / cap)``: close to x for small x, and between -cap and cap for all x.

    The derivative is ``1 - tanh(x / cap)**2``: 1 at 0, 0.42 at the cap, and never 0 except by rounding. NaN
    stays NaN.

    Args:
        x: a floating-point array of any shape.
        cap: a finite number above 0.

    Returns:
        An array of the shape and dtype of ``x``.

    Raises:
        ArgumentError: ``x`` is not floating-point, or the cap is NaN, infinite or not above 0.

    >>> import numpy as np
    >>> soft_cap(np.array([0.5, -1000.0, np.inf]), 30.0).round(4)
    array([  0.5, -30. ,  30. ])

    Source: Gemma Team 2024, "Gemma 2", arXiv:2408.00118: 50 for attention logits and 30 for the final logits.
    """
    cap = positive("cap", cap, finite=True)
    xp, x = floating("x", x)
    # In this order as in the published models, whose numbers it gives to the bit.
    return xp.tanh(x / cap) * cap
