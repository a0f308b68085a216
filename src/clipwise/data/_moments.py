"""Mean and deviation of values that come in parts, whatever their size."""

import math
from typing import Any

import numpy as np


class Moments:
    """How many values there were, their mean and their population standard deviation.

    Kept in a unit near the largest value, so that no square leaves the range of a double.

    Args:
        values: ``(N,)``, finite.

    >>> moments = Moments(np.array([1e200, -1e200]))
    >>> moments.merge(Moments(np.array([3e200])))
    >>> moments.count, moments.mean_and_deviation()
    (3, (1e+200, 1.632993161855452e+200))
    """

    def __init__(self, values: np.ndarray[Any, np.dtype[np.float64]]) -> None:
        self.count = values.size
        self._unit = power_of_two_below(float(np.abs(values).max(initial=0.0)))
        scaled = values / self._unit
        self._mean = float(scaled.mean()) if self.count else 0.0
        self._squares = float(((scaled - self._mean) ** 2).sum())  # of the differences to the mean

    def merge(self, other: "Moments") -> None:
        """Take in those of other values (Chan, Golub and LeVeque 1979)."""
        if not other.count:
            return
        count = self.count + other.count
        unit = max(self._unit, other._unit)
        mine, theirs = self._unit / unit, other._unit / unit
        shift = other._mean * theirs - self._mean * mine
        self._squares = (
            self._squares * mine**2
            + other._squares * theirs**2
            + shift**2 * (self.count / count) * other.count
        )
        self._mean = self._mean * mine + shift * (other.count / count)
        self._unit, self.count = unit, count

    def mean_and_deviation(self) -> tuple[float, float]:
        """Mean and deviation."""
        return self._mean * self._unit, math.sqrt(self._squares / self.count) * self._unit


def power_of_two_below(largest: float) -> float:
    """The power of two at or below a magnitude: to divide by it costs no digit.

    >>> power_of_two_below(1000.0), power_of_two_below(0.0)
    (512.0, 5e-324)
    """
    return math.ldexp(0.5, math.frexp(largest)[1]) if largest else math.ulp(0.0)
