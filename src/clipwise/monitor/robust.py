"""Robust statistics: median and spread, on which outliers have little effect."""

SIGMA_PER_MAD = 1.4826
"""Standard deviations in a median absolute deviation, for a normal distribution: 1 / Phi^-1(3/4)."""


def median(ordered: list[float]) -> float:
    """The median of sorted values: the middle one, or the mean of the two in the middle."""
    half = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[half]
    return ordered[half - 1] / 2 + ordered[half] / 2
