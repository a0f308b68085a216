"""The five methods that give the bounds of a column, and the checks of their arguments."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from clipwise.checks import is_number, number_where
from clipwise.data._bounds import as_bound, check_pair
from clipwise.errors import ArgumentError, did_you_mean

Method = Literal["given", "quantiles", "iqr", "mad", "deviations"]
Side = Literal["both", "low", "high"]
Given: TypeAlias = float | Sequence[float | None] | Mapping[Any, float | None] | None

NORMAL = 1.482602218505602
"""Standard deviations of a normal distribution in one median absolute deviation: 1 / Phi^-1(3/4)."""

FACTORS = {"iqr": 1.5, "mad": 3.0, "deviations": 3.0}
"""Tukey's fences, and the three deviations in common use."""

QUANTILES = (0.01, 0.99)


@dataclass(frozen=True)
class BoundsRule:
    """How the bounds of a column are computed.

    ==============  ==================================================================
    ``given``       low and high themselves
    ``quantiles``   the quantiles low and high
    ``iqr``         ``q25 - factor * (q75 - q25)`` to ``q75 + factor * (q75 - q25)``
    ``mad``         ``median -+ factor * 1.4826 * median(|x - median|)``
    ``deviations``  ``mean -+ factor * population standard deviation``
    ==============  ==================================================================

    Attributes:
        method: name of the method.
        low, high: for ``given`` and ``quantiles``.
        factor: for the other three.
        side: which of the two bounds are used.
    """

    method: Method
    low: Any = None
    high: Any = None
    factor: float = math.nan
    side: Side = "both"

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles that are needed."""
        known: dict[str, tuple[float, ...]] = {"iqr": (0.25, 0.75), "mad": (0.5,)}
        return (self.low, self.high) if self.method == "quantiles" else known.get(self.method, ())

    def interval(self, column: Any, first: float, second: float) -> tuple[float, float]:
        """The bounds of a column, from two of its statistics.

        Args:
            column: name of the column.
            first, second: the two quantiles; for ``mad`` the median and the median absolute deviation; for
                ``deviations`` the mean and the standard deviation.

        Raises:
            ArgumentError: a bound is beyond the range of a double.
        """
        if self.method == "quantiles":
            low, high = first, second
        elif self.method == "iqr":
            reach = self.factor * (second - first)
            low, high = first - reach, second + reach
        else:
            reach = self.factor * second * (NORMAL if self.method == "mad" else 1.0)
            low, high = first - reach, first + reach
        if not (self.side == "high" or math.isfinite(low)) or not (self.side == "low" or math.isfinite(high)):
            raise ArgumentError(
                f"column {column!r}: its values are so large that the bounds of method {self.method!r} lie"
                f" beyond the range of a double ({low!r} and {high!r}); give bounds, or leave the column out"
            )
        return self.one_sided(low, high)

    def one_sided(self, low: float, high: float) -> tuple[float, float]:
        """The bounds, without the one on the side that is not clipped."""
        return (-math.inf if self.side == "high" else low), (math.inf if self.side == "low" else high)

    def given(self, columns: Sequence[Any]) -> list[tuple[float, float]]:
        """The bounds of each column, where they were given.

        Raises:
            ArgumentError: a bound is missing, no number, or above the other one.
        """
        lows = _each("low", self.low, columns, -math.inf)
        highs = _each("high", self.high, columns, math.inf)
        pairs = [self.one_sided(low, high) for low, high in zip(lows, highs, strict=True)]
        for column, (low, high) in zip(columns, pairs, strict=True):
            check_pair(column, low, high)
        return pairs


def bounds_rule(
    method: str, low: Given = None, high: Given = None, factor: float | None = None, side: str = "both"
) -> BoundsRule:
    """Check the arguments and fill in the defaults.

    Raises:
        ArgumentError: an argument is not allowed, or belongs to another method.
    """
    if method not in get_args(Method):
        raise ArgumentError(f"unknown method {method!r}. {did_you_mean(str(method), get_args(Method))}")
    if side not in get_args(Side):
        raise ArgumentError(f"side must be 'both', 'low' or 'high', got {side!r}")
    if method in FACTORS:
        if low is not None or high is not None:
            raise ArgumentError(f"low and high are for 'given' and 'quantiles'; {method!r} takes a factor")
        factor = FACTORS[method] if factor is None else factor
        factor = number_where("factor", factor, lambda factor: 0 < factor < math.inf, "a number above 0")
        return BoundsRule(method, factor=factor, side=side)  # type: ignore[arg-type]
    if factor is not None:
        raise ArgumentError(f"factor is for 'iqr', 'mad' and 'deviations'; {method!r} takes low and high")
    if method == "given":
        if (low is None or side == "high") and (high is None or side == "low"):
            raise ArgumentError("the method 'given' needs low=, high= or both, on the side that is clipped")
        return BoundsRule("given", low, high, side=side)  # type: ignore[arg-type]
    levels: list[Any] = [QUANTILES[0] if low is None else low, QUANTILES[1] if high is None else high]
    for name, level in zip(("low", "high"), levels, strict=True):
        if not is_number(level) or not 0 <= level <= 1:
            raise ArgumentError(f"{name} must be a quantile in [0, 1], got {level!r}")
    if side == "both" and levels[0] > levels[1]:
        raise ArgumentError(f"the quantiles are crossed, low={levels[0]!r} is above high={levels[1]!r}")
    return BoundsRule("quantiles", float(levels[0]), float(levels[1]), side=side)  # type: ignore[arg-type]


def distinct_names(columns: Sequence[str]) -> list[str]:
    """The names of some columns, each once, in order.

    Raises:
        ArgumentError: the argument is a string, or empty.
    """
    if isinstance(columns, str):
        raise ArgumentError(f"columns must be a list of names, got the string {columns!r}")
    names = list(dict.fromkeys(columns))
    if not names:
        raise ArgumentError("columns must name at least one column; left out, it means all numeric columns")
    return names


def _each(name: str, given: Any, columns: Sequence[Any], missing: float) -> list[float]:
    """One bound a column."""
    if given is None or is_number(given):
        values = [given] * len(columns)
    elif isinstance(given, Mapping):
        for column in given:
            if column not in columns:
                raise ArgumentError(
                    f"{name}: no column {column!r}. {did_you_mean(str(column), map(str, columns))}"
                )
        values = [given.get(column) for column in columns]
    elif isinstance(given, str) or not hasattr(given, "__len__"):
        raise ArgumentError(f"{name} must be a number, one per column, or a mapping by column, got {given!r}")
    else:
        values = list(given)
        if len(values) != len(columns):
            raise ArgumentError(f"{name} holds {len(values)} bounds, for {len(columns)} columns")
    return [as_bound(column, name, value, missing) for column, value in zip(columns, values, strict=True)]
