"""Whether a loss diverged: from some step on it was never again finite and near its first value."""

import math

import numpy as np

from clipwise.monitor.store import Floats

BLOWN_UP = 10.0
"""A loss that stays above this many times the first one has blown up."""

FINAL_SHARE = 0.05
"""The share of the last losses that the final one is taken over."""


def highest(losses: Floats) -> float:
    """The largest loss that counts as near the first finite one; infinite if there is none.

    >>> highest(np.array([np.nan, -2.0, 5.0]))
    20.0
    """
    known = losses[np.isfinite(losses)]
    return BLOWN_UP * abs(float(known[0])) if len(known) else math.inf


def final_loss(losses: Floats) -> float:
    """The median of the last 5 % of the losses; NaN if there are none."""
    if not len(losses):
        return math.nan
    return float(np.median(losses[-max(1, round(FINAL_SHARE * len(losses))) :]))


def diverged(losses: Floats, *, sound: bool = False) -> int | None:
    """The index from which on the loss was never again finite and near its first value.

    Near means at most 10 times the first finite loss. A single spike at the very end is no divergence. Nor is
    a final NaN if the model is ``sound`` after it: that step was skipped.

    Returns:
        The index, from 0 on; None if the loss did not diverge.

    >>> diverged(np.array([1.0, 0.9, 50.0, 0.8, 1e6, np.inf]))
    4
    """
    if not len(losses):
        return None
    limit = highest(losses)
    bad = ~(np.isfinite(losses) & (losses <= limit))
    if not bad[-1]:
        return None
    if final_loss(losses) <= limit if np.isfinite(losses[-1]) else sound:
        return None
    good = np.flatnonzero(~bad)
    return int(good[-1]) + 1 if len(good) else 0
