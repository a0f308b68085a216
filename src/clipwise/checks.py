"""Checks of numbers and bounds, before anything is done with them.

Each check returns the value in its plain type, or raises an error that names the value and what is allowed.
"""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np

from clipwise.errors import ArgumentError, ThresholdError
from clipwise.namespace import is_traced

SMALLEST = 2.0**-126
"""The smallest normal float32. What is below it can be 0 on its way, and a threshold of 0 freezes a run."""

Bounds = np.ndarray[Any, np.dtype[Any]]


def is_number(value: Any) -> bool:
    """Whether this is a real number of Python or numpy; a bool is not.

    >>> is_number(np.float32(1.0)), is_number(True), is_number("1")
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def number(name: str, value: Any) -> float:
    """The value as a float; ArgumentError if it is not a number or is NaN."""
    if not is_number(value) or math.isnan(value):
        raise ArgumentError(f"{name} must be a number, got {value!r}")
    return float(value)


def number_where(name: str, value: Any, holds: Callable[[Any], bool], allowed: str) -> float:
    """The value as a float; ArgumentError if it is not a number or the condition does not hold.

    >>> number_where("share", 0.25, lambda share: 0 <= share <= 1, "from 0 to 1")
    0.25
    """
    if not is_number(value) or not holds(value):
        raise ArgumentError(f"{name} must be {allowed}, got {value!r}")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """The value as a float in [0, 1), for decays; ArgumentError otherwise."""
    return number_where(name, value, lambda value: 0 <= value < 1, "at least 0 and below 1")


def whole(
    name: str, value: Any, *, low: float = 1, high: float = math.inf, allowed: str | None = None
) -> int:
    """The value as a whole number in [low, high]; ArgumentError otherwise.

    Args:
        allowed: words for what is allowed, in place of "a whole number of at least ...".
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise ArgumentError(f"{name} must be {allowed or f'a whole number of at least {low}'}, got {value!r}")
    return int(value)


def positive(name: str, value: Any, *, finite: bool = False) -> float:
    """The value as a float above 0, which may be infinite if ``finite`` is False; ArgumentError otherwise."""
    found = number(name, value)
    if not found > 0 or (finite and math.isinf(found)):
        raise ArgumentError(f"{name} must be a {'finite ' if finite else ''}number above 0, got {value!r}")
    return found


def bounds_of(low: Any, high: Any) -> tuple[float, float]:
    """Two numbers with the first below the second; ArgumentError otherwise."""
    smallest, largest = number("low", low), number("high", high)
    if not smallest < largest:
        raise ArgumentError(f"low must be below high, got low={low!r} and high={high!r}")
    return smallest, largest


def feature_bounds(low: Any, high: Any, dtype: Any = np.float64) -> tuple[Bounds, Bounds]:
    """Two bounds, each a number or an array ``(F,)``; None becomes -inf or inf.

    Raises:
        ArgumentError: a bound is NaN or not a number, low is above high, or they differ in length.
    """
    first, second = _bound("low", low, -math.inf, dtype), _bound("high", high, math.inf, dtype)
    if first.ndim and second.ndim and first.shape != second.shape:
        raise ArgumentError(f"low has {len(first)} bounds and high {len(second)}: give as many of each")
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
        raise ArgumentError(f"{name} must be a number or one per feature, got {value!r}") from error
    if isinstance(value, str) or bound.ndim > 1 or not bound.size or np.isnan(bound).any():
        raise ArgumentError(f"{name} must be a number or one per feature, none of them NaN, got {value!r}")
    return bound


def _is_single(value: Any) -> bool:
    """Whether an array is known to hold one number; of TensorFlow's not even the number of axes may be."""
    try:
        return tuple(value.shape) == ()
    except ValueError:
        return False


def check_number(
    name: str, value: Any, *, low: float = 0.0, high: float = math.inf, traced: bool = False
) -> float:
    """A threshold, or an argument of one, as a float in [low, high]; otherwise ThresholdError with its name.

    With ``traced``, a number that is not known yet (a tracer) is returned as it is; only its shape is
    checked.
    """
    if is_traced(value):
        if traced and _is_single(value):
            return value  # type: ignore[no-any-return]
        what = "a single number, of shape ()" if traced else "known while the clip is made"
        raise ThresholdError(f"{name} must be {what}, got {value!r}")
    # A bool is a number to Python and numpy's complex has a __float__; as a threshold both are mistakes.
    no_number = isinstance(value, bool | np.bool_ | str | bytes | np.complexfloating)
    if no_number or not hasattr(value, "__float__"):
        raise ThresholdError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ThresholdError(f"{name} must be a single number, got {value!r}") from error
    if math.isnan(number):
        raise ThresholdError(f"{name} must be a number, got NaN")
    if not low <= number <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"within [{low:g}, {high:g}]"
        raise ThresholdError(f"{name} must be {allowed}, got {value!r}")
    return number
