"""A robust test for jumps of the loss, used by the policies that follow the loss."""

from typing import Any

from clipwise.namespace import Array
from clipwise.thresholds import _history

ENOUGH = 10
"""Losses that must be known before a jump can be told."""

_SIGMA_PER_MAD = 1.4826  # of a normal distribution


def jumped(xp: Any, losses: _history.History, loss: Array, z: float) -> tuple[Array, Array, _history.History]:
    """Whether a loss jumps: it is not finite, or above ``median + z * 1.4826 * MAD`` of the recent losses.

    The recent losses include this one.

    Returns:
        Whether it jumped; whether there are enough losses to tell; and the losses with this one added. A loss
        that is not finite always counts as a jump and is never added.
    """
    finite = xp.isfinite(loss)
    losses = _history.add(xp, losses, loss, finite)
    middle = _history.percentile_of(xp, losses, 50.0)
    known = losses.count >= ENOUGH
    # Empty places hold inf and stay there; where nothing is known the median is inf, and inf - inf is NaN.
    centre = xp.where(losses.count > 0, middle, 0.0)
    spread = xp.sort(xp.abs(losses.ordered - centre[..., None]), axis=-1)
    mad = _history.percentile_of_sorted(xp, spread, losses.count, 50.0)
    mad = xp.where(losses.count > 0, mad, 0.0)
    high = known & (loss > centre + z * _SIGMA_PER_MAD * mad)
    return ~finite | high, ~finite | known, losses
