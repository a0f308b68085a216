"""A robust test for jumps of the loss, used by the policies that follow the loss."""

from typing import Any

from clipwise.namespace import Array
from clipwise.thresholds import _history

ENOUGH = 10
"""Losses that must be known before a jump can be told."""

_SIGMA_PER_MAD = 1.4826  # of a normal distribution
_SIGMA_PER_MEAN = 1.2533  # absolute deviation from the median, of a normal distribution


def jumped(xp: Any, losses: _history.History, loss: Array, z: float) -> tuple[Array, Array, _history.History]:
    """Whether a loss jumps: it is not finite, or above ``median + z * 1.4826 * MAD`` of the recent losses.

    The recent losses include this one. If more than half of them are the same (losses in half precision), MAD
    is 0, and every higher loss would be a jump. Then the deviation is 1.2533 times the mean absolute one:
    Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers".

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
    some = xp.isfinite(spread)
    mean = xp.sum(xp.where(some, spread, 0.0), axis=-1)
    mean = mean / xp.clip(xp.sum(xp.astype(some, spread.dtype), axis=-1), 1.0, None)
    deviation = xp.where(mad > 0, _SIGMA_PER_MAD * mad, _SIGMA_PER_MEAN * mean)
    deviation = xp.where(losses.count > 0, deviation, 0.0)
    high = known & (loss > centre + z * deviation)
    return ~finite | high, ~finite | known, losses
