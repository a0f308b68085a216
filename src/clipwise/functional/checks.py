"""Numbers and bounds as they are given, checked before anything is done with them."""

import math
from numbers import Real
from typing import Any

import numpy as np

from clipwise.errors import ArgumentError

__all__ = ["bounds_of", "feature_bounds", "number", "positive"]

Bounds = np.ndarray[Any, np.dtype[Any]]


def number(name: str, value: Any) -> float:
    """A number as a float; ArgumentError for anything else and for NaN."""
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ArgumentError(f"{name} must be a number, got {value!r}")
    return float(value)


def positive(name: str, value: Any, *, finite: bool = False) -> float:
    """A number above 0, infinite only where that is allowed; ArgumentError otherwise."""
    found = number(name, value)
    if not found > 0 or (finite and math.isinf(found)):
        raise ArgumentError(f"{name} must be a {'finite ' if finite else ''}number above 0, got {value!r}")
    return found


def bounds_of(low: Any, high: Any) -> tuple[float, float]:
    """Two numbers, the first below the second; ArgumentError otherwise."""
    smallest, largest = number("low", low), number("high", high)
    if not smallest < largest:
        raise ArgumentError(f"low must be below high, got low={low!r} and high={high!r}")
    return smallest, largest


def feature_bounds(low: Any, high: Any, dtype: Any = np.float64) -> tuple[Bounds, Bounds]:
    """Two bounds, each a number or ``(F,)`` of them, infinite where one is None.

    Raises:
        ArgumentError: one is NaN or no number, the two are crossed or differ in length.
    """
    first, second = _bound("low", low, -math.inf, dtype), _bound("high", high, math.inf, dtype)
    if first.ndim and second.ndim and first.shape != second.shape:
        raise ArgumentError(f"low holds {len(first)} bounds and high {len(second)}: give as many of both")
    lows, highs = np.broadcast_arrays(first, second)
    if (lows > highs).any():
        i = int((lows > highs).argmax())
        pair = f"low={float(lows.flat[i])!r} is above high={float(highs.flat[i])!r}"
        where = f" of feature {i}" if lows.ndim else ""
        raise ArgumentError(f"the bounds{where} are crossed, {pair}")
    return first, second


def _bound(name: str, value: Any, missing: float, dtype: Any) -> Bounds:
    given = value
    if value is None:
        given = missing
    elif isinstance(value, list | tuple):
        given = [missing if one is None else one for one in value]
    try:
        with np.errstate(over="ignore"):  # infinite where the type is too narrow
            bound = np.array(given, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} must be a number or one a feature, got {value!r}") from error
    if isinstance(value, str) or bound.ndim > 1 or not bound.size or np.isnan(bound).any():
        raise ArgumentError(f"{name} must be a number or one a feature, none of them NaN, got {value!r}")
    return bound
