"""The statistics of a column that bounds follow from, exact from an array, and the quantiles of a sketch."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from clipwise.checks import number
from clipwise.data._extra import load
from clipwise.data._moments import Moments
from clipwise.data._report import ColumnReport
from clipwise.data._rule import BoundsRule
from clipwise.errors import ArgumentError

Values: TypeAlias = np.ndarray[Any, np.dtype[Any]]

RANK_ERROR = 1e-4
"""The default for streams: a 1 % quantile lies between the quantiles of .99 % and 1.01 %."""

LARGEST_SKETCH = 65535


class ColumnStatistics(NamedTuple):
    """What bounds follow from.

    Attributes:
        first, second: as `BoundsRule.interval` wants them.
        smallest, largest: of the finite values.
    """

    first: float
    second: float
    smallest: float
    largest: float


def array_statistics(rule: BoundsRule, column: Values) -> tuple[float, float]:
    """The two statistics of `BoundsRule.interval`, of the finite values of a column, in float64."""
    values = column[np.isfinite(column)].astype(np.float64, copy=False)
    if rule.method == "deviations":
        return Moments(values).mean_and_deviation()
    if rule.method == "mad":
        median = float(np.median(values))
        with np.errstate(over="ignore"):
            return median, float(np.median(np.abs(values - median)))
    with np.errstate(over="ignore", invalid="ignore"):
        first, second = np.quantile(values, rule.levels)
    return float(first), float(second)


def array_report(name: str, column: Values, low: float, high: float) -> ColumnReport:
    """What bounds do to an array; they are in its own type already."""
    missing = int(np.isnan(column).sum())
    finite = column[np.isfinite(column)]
    smallest, largest = (float(finite.min()), float(finite.max())) if finite.size else (math.nan, math.nan)
    below, above = int((column < low).sum()), int((column > high).sum())
    return ColumnReport(
        name, float(low), float(high), len(column) - missing, missing, below, above, smallest, largest
    )


def weighted_quantile(items: Values, weights: Values, levels: Sequence[float]) -> Values:
    """Quantiles of values that stand for several each, linear between neighbours as numpy's.

    Args:
        items, weights: ``(M,)`` values in ascending order, and how many each stands for, at least 1.
        levels: in [0, 1].

    >>> weighted_quantile(np.array([1.0, 5.0]), np.array([3, 1]), [0.5, 1.0])
    array([1., 5.])
    """
    ends = np.cumsum(weights)
    place = np.asarray(levels, dtype=np.float64) * float(ends[-1] - 1)
    before = np.floor(place)
    first = items[np.searchsorted(ends, before, side="right")]
    second = items[np.searchsorted(ends, np.minimum(before + 1, ends[-1] - 1), side="right")]
    with np.errstate(over="ignore", invalid="ignore"):
        found: Values = first + (second - first) * (place - before)
    return found


def sketch_size(rank_error: float) -> int:
    """The smallest k of a KLL sketch whose rank error is at most this, with 99 % confidence.

    Raises:
        ArgumentError: no sketch is that exact.
    """
    stated = load("datasketches").kll_doubles_sketch.get_normalized_rank_error
    least = stated(LARGEST_SKETCH, False)
    number("rank_error", rank_error)
    if not least <= rank_error < 0.5:
        raise ArgumentError(f"rank_error must be from {least:.2g} to 0.5, got {rank_error!r}")
    low, high = 8, LARGEST_SKETCH
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if stated(middle, False) <= rank_error else (middle + 1, high)
    return low
