"""The distribution of a run's norms, and how many of them a threshold would have clipped (exact counts)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipwise.monitor.store import Floats

PERCENTILES = (50, 90, 95, 99)
BINS = 72
POSITIONS = 600
"""Positions of the slider, evenly spaced on a logarithmic scale."""
SMALLEST, LARGEST = 5e-324, 1.7e308


@dataclass(frozen=True)
class Distribution:
    """Norms in ascending order, and the number of non-finite ones.

    Attributes:
        norms: the finite ones, sorted.
        nonfinite: number of NaN and Inf, which a threshold does not clip; such steps are skipped or zeroed.
    """

    norms: Floats
    nonfinite: int

    def clipped(self, thresholds: Floats | float) -> Any:
        """The number of norms above each threshold: ``sum(norms > threshold)``."""
        return len(self.norms) - np.searchsorted(self.norms, thresholds, side="right")

    def view(self, threshold: float | None) -> dict[str, Any]:
        """The data for the page: bins, marks, and the positions of the slider with their counts.

        Args:
            threshold: the last threshold in force, None if nothing was clipped.
        """
        norms = self.norms
        zeros = int(np.searchsorted(norms, 0.0, side="right"))
        found: dict[str, Any] = {"count": len(norms), "zeros": zeros, "nonfinite": self.nonfinite}
        if zeros == len(norms):
            return found | {"edges": [], "counts": [], "marks": [], "thresholds": [], "clipped": []}
        low, high = float(norms[zeros]), float(norms[-1])
        points = self._marks(threshold)
        span = [value for _, value in points if 0 < value < math.inf]
        if low == high:
            low, high = max(low / 2, SMALLEST), min(high * 2, LARGEST)
        edges = _logarithmic(low, high, BINS + 1)
        edges[0], edges[-1] = low, high
        counts = np.diff(np.searchsorted(norms, edges[1:-1], side="left"), prepend=zeros, append=len(norms))
        positions = _logarithmic(
            max(min([low, *span]) * 0.97, SMALLEST), min(max([high, *span]) * 1.03, LARGEST), POSITIONS
        )
        return found | {
            "edges": edges.tolist(),
            "counts": counts.tolist(),
            "marks": [
                {"name": name, "value": value, "clipped": int(self.clipped(value))} for name, value in points
            ],
            "thresholds": positions.tolist(),
            "clipped": self.clipped(positions).tolist(),
        }

    def _marks(self, threshold: float | None) -> list[tuple[str, float]]:
        with np.errstate(over="ignore"):
            points = [("mean", min(float(np.mean(self.norms)), LARGEST))]
        values: Sequence[float] = np.percentile(self.norms, PERCENTILES).tolist()
        points += [
            (f"{p}th percentile" if p != 50 else "median", v)
            for p, v in zip(PERCENTILES, values, strict=True)
        ]
        if threshold is not None and math.isfinite(threshold):
            points.append(("threshold", threshold))
        return points


def distribution(norms: Floats) -> Distribution:
    """Sort the finite norms.

    >>> found = distribution(np.array([3.0, 1.0, np.nan, 2.0]))
    >>> found.clipped(np.array([0.5, 1.0, 2.5])).tolist(), found.nonfinite
    ([3, 2, 1], 1)
    """
    finite = norms[np.isfinite(norms)]
    return Distribution(np.sort(finite), len(norms) - len(finite))


def _logarithmic(low: float, high: float, count: int) -> Floats:
    # In pieces of the exponent: the quotient of the two may be beyond what a float can hold.
    return np.asarray(np.exp(np.linspace(math.log(low), math.log(high), count)))
