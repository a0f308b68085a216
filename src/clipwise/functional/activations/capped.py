"""A bound that is approached and never reached."""

from clipwise.checks import positive
from clipwise.functional.inputs import floating
from clipwise.namespace import Array

__all__ = ["soft_cap"]


def soft_cap(x: Array, cap: float) -> Array:
    """``cap * tanh(x / cap)``: nearly x for small x, between -cap and cap for all.

    Its slope at x is ``1 - tanh(x / cap)**2``: 1 at 0, 0.42 at the cap, 0 nowhere but for rounding. NaN stays
    NaN.

    Args:
        x: floats of any shape.
        cap: above 0 and finite.

    Raises:
        ArgumentError: ``x`` is not of floats, or the cap is NaN, infinite or not above 0.

    >>> import numpy as np
    >>> soft_cap(np.array([0.5, -1000.0, np.inf]), 30.0).round(4)
    array([  0.5, -30. ,  30. ])

    Source: Gemma Team 2024, "Gemma 2", arXiv:2408.00118, 50 for attention logits and 30 for the last ones.
    """
    cap = positive("cap", cap, finite=True)
    xp, x = floating("x", x)
    # In this order as in the published models, whose numbers it gives to the bit.
    return xp.tanh(x / cap) * cap
