"""A column that comes in batches: a KLL sketch of its values, its moments and counts, in bounded memory."""

import math
from typing import Any

import numpy as np

from clipwise.data._extra import load
from clipwise.data._moments import Moments
from clipwise.data._report import ColumnReport
from clipwise.data._rule import BoundsRule
from clipwise.data._statistics import Values, weighted_quantile


class ColumnSketch:
    """Statistics of a column that is given in batches.

    The sketch is that of Karnin, Lang and Liberty 2016 (arXiv:1603.05346) in Apache DataSketches. While it
    holds every value, all statistics are exact. After that, the rank of a quantile is off by at most
    ``rank_error`` with 99 % confidence, and that of the median absolute deviation by at most twice as much,
    measured from the sketch's median. Results differ between runs, since a sketch drops values at random and
    takes no seed. Mean, deviation and extremes never come from the sketch.

    Args:
        size: the sketch's k (`sketch_size`).

    >>> stream = ColumnSketch(200)
    >>> stream.update(np.arange(50.0))
    >>> stream.update(np.arange(50.0, 101.0))
    >>> stream.statistics(BoundsRule("quantiles", 0.25, 0.75)), stream.rank_error
    ((25.0, 75.0), 0.0)
    """

    def __init__(self, size: int) -> None:
        self._sketch = load("datasketches").kll_doubles_sketch(size)
        self._moments = Moments(np.empty(0))
        self.missing = 0
        self.lowest = 0  # values that are -inf
        self.highest = 0
        self._sorted: tuple[Values, Values] | None = None

    def update(self, batch: Values) -> None:
        """Add ``(N,)`` values."""
        values = np.asarray(batch, dtype=np.float64)
        known = np.isfinite(values)
        if not known.all():
            self.missing += int(np.isnan(values).sum())
            self.lowest += int((values == -math.inf).sum())
            self.highest += int((values == math.inf).sum())
            values = values[known]
        if not values.size:
            return
        self._sorted = None
        self._sketch.update(np.require(values, requirements=["C", "W"]))  # it takes no read-only array
        self._moments.merge(Moments(values))

    def merge(self, other: "ColumnSketch") -> None:
        """Add the values that another sketch has seen."""
        self.missing += other.missing
        self.lowest += other.lowest
        self.highest += other.highest
        if other.finite:
            self._sorted = None
            self._sketch.merge(other._sketch)
            self._moments.merge(other._moments)

    @property
    def finite(self) -> int:
        """Number of finite values."""
        return self._moments.count

    @property
    def rank_error(self) -> float:
        """The rank error of a quantile with 99 % confidence; 0 while every value is held."""
        return float(self._sketch.normalized_rank_error(False)) if self._sketch.is_estimation_mode() else 0.0

    @property
    def extremes(self) -> tuple[float, float]:
        """The smallest and the largest finite value, which are exact; NaN if there is none."""
        if not self.finite:
            return math.nan, math.nan
        return float(self._sketch.get_min_value()), float(self._sketch.get_max_value())

    def statistics(self, rule: BoundsRule) -> tuple[float, float]:
        """The two statistics that `BoundsRule.interval` needs."""
        if rule.method == "deviations":
            return self._moments.mean_and_deviation()
        items, weights = self._held()
        if rule.method == "mad":
            median = float(weighted_quantile(items, weights, [0.5])[0])
            away = np.abs(items - median)
            order = np.argsort(away, kind="stable")
            return median, float(weighted_quantile(away[order], weights[order], [0.5])[0])
        first, second = (self._quantile(level) for level in rule.levels)
        return first, second

    def report(self, name: str, low: float, high: float) -> ColumnReport:
        """What bounds do to the values seen; below and above are estimates unless ``rank_error`` is 0."""
        count = self.finite + self.lowest + self.highest
        below, above = self.lowest * (low > -math.inf), self.highest * (high < math.inf)
        if self.finite:
            items, weights = self._held()
            below += int(weights[items < low].sum())
            above += int(weights[items > high].sum())
        return ColumnReport(name, low, high, count, self.missing, below, above, *self.extremes)

    def _quantile(self, level: float) -> float:
        if level in (0.0, 1.0):
            return self.extremes[int(level)]
        return float(weighted_quantile(*self._held(), [level])[0])

    def _held(self) -> tuple[Values, Values]:
        """The values held in ascending order, and how many each stands for."""
        if self._sorted is None:
            pairs = np.array(list(self._sketch))
            order = np.argsort(pairs[:, 0], kind="stable")
            self._sorted = pairs[order, 0], pairs[order, 1].astype(np.int64)
        return self._sorted

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_sketch": self._sketch.serialize(), "_sorted": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._sketch = load("datasketches").kll_doubles_sketch.deserialize(state["_sketch"])
