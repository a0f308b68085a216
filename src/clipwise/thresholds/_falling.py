"""Is the loss lower than it ever was? A sign that the steps so far did no harm."""

from typing import Any, NamedTuple

from clipwise.namespace import Array

_PACE = 0.2  # share of a loss in the smoothed one, once there were 5


class Falling(NamedTuple):
    """All of the groups' shape.

    Attributes:
        smooth: the smoothed loss.
        lowest: the lowest that it was.
        count: how many losses there were.
    """

    smooth: Array
    lowest: Array
    count: Array


def start(xp: Any, shape: tuple[int, ...]) -> Falling:
    """Before the first loss."""
    return Falling(xp.zeros(shape), xp.full(shape, xp.inf), xp.zeros(shape, dtype=xp.int32))


def falls(xp: Any, state: Falling, loss: Array) -> tuple[Array, Falling]:
    """Whether the smoothed loss with this one is lower than before; one that is not finite does not count."""
    finite = xp.isfinite(loss)
    pace = xp.clip(1.0 / (xp.astype(state.count, state.smooth.dtype) + 1.0), _PACE, None)
    smooth = xp.where(finite, state.smooth + pace * (loss - state.smooth), state.smooth)
    lower = finite & (smooth < state.lowest)
    count = state.count + xp.astype(finite, xp.int32)
    return lower & (state.count > 0), Falling(smooth, xp.where(lower, smooth, state.lowest), count)
