"""The bounds of columns: learned once, applied anywhere."""

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal, localcontext
from numbers import Integral
from typing import Any

import numpy as np

from clipwise.checks import is_number
from clipwise.errors import ArgumentError

DIGITS = 400
"""Enough for any double above the smallest step of a decimal."""


class Bounds(Mapping[str, tuple[float, float]]):
    """By column, the lowest and the highest value that are kept; ``-inf`` and ``inf`` for no bound.

    Args:
        bounds: by column, ``(low, high)``; None for no bound on that side. Stored as floats; integers that no
            float equals are stored as integers.

    Raises:
        ArgumentError: a bound is not a number, or low is above high.

    >>> bounds = Bounds({"amount": (-10, 10), "age": (0, None)})
    >>> bounds["age"]
    (0.0, inf)
    >>> Bounds.from_json(bounds.to_json()) == bounds
    True
    """

    def __init__(self, bounds: Mapping[str, Any]) -> None:
        self._bounds: dict[str, tuple[float, float]] = {}
        for column, pair in bounds.items():
            if isinstance(pair, str) or not hasattr(pair, "__len__") or len(pair) != 2:
                raise ArgumentError(f"column {column!r}: expected a pair (low, high), got {pair!r}")
            low = as_bound(column, "low", pair[0], -math.inf)
            high = as_bound(column, "high", pair[1], math.inf)
            check_pair(column, low, high)
            self._bounds[column] = (low, high)

    def __getitem__(self, column: str) -> tuple[float, float]:
        return self._bounds[column]

    def __iter__(self) -> Iterator[str]:
        return iter(self._bounds)

    def __len__(self) -> int:
        return len(self._bounds)

    def __repr__(self) -> str:
        return f"Bounds({self._bounds!r})"

    def to_json(self) -> str:
        """The bounds as JSON, with exact numbers; null for no bound.

        Columns are keys. If pandas' labels are not strings, the JSON holds a list of (label, low, high).

        Raises:
            ArgumentError: a label is neither a string nor a number, nor a tuple of them.
        """
        pairs = [(c, finite_or_none(low), finite_or_none(high)) for c, (low, high) in self.items()]
        plain: Any = {c: [low, high] for c, low, high in pairs}
        if not all(isinstance(column, str) for column in self):
            plain = [[_check_label(c), low, high] for c, low, high in pairs]
        return json.dumps({"bounds": plain}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Bounds":
        """The bounds from the text of `to_json`.

        Raises:
            ArgumentError: the text is not JSON, or holds no bounds.
        """
        try:
            found = json.loads(text)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"no JSON: {error}") from error
        bounds = found.get("bounds") if isinstance(found, dict) else None
        if isinstance(bounds, list) and all(isinstance(item, list) and len(item) == 3 for item in bounds):
            bounds = {_label(column): (low, high) for column, low, high in bounds}
        if not isinstance(bounds, dict):
            raise ArgumentError('expected a JSON object with the key "bounds"')
        return cls(bounds)


def _check_label(label: Any) -> Any:
    for part in label if isinstance(label, tuple) else (label,):
        if not isinstance(part, str | int | float | None):
            raise ArgumentError(f"column {label!r}: JSON holds labels of text and numbers alone")
    return label


def _label(plain: Any) -> Any:
    """A label as it was before JSON made a list of a tuple."""
    return tuple(plain) if isinstance(plain, list) else plain


def finite_or_none(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else None


def integer_bounds(
    column: str, low: float, high: float, least: int, most: int, scale: int = 0
) -> tuple[int | None, int | None]:
    """Bounds of numbers that go in steps of ``10**-scale``, from ``least`` steps to ``most``.

    In steps, rounded inwards; None where there is nothing to do.

    >>> integer_bounds("count", -0.5, 3.7, 0, 255)
    (None, 3)
    >>> integer_bounds("price", 1.005, 2.3, -(10**6), 10**6, scale=2)
    (101, 230)
    """
    with localcontext(prec=DIGITS):
        lower, upper = (_written(end, scale).scaleb(scale) for end in (low, high))
        first = None if lower <= least else (math.inf if lower.is_infinite() else math.ceil(lower))
        last = None if upper >= most else (-math.inf if upper.is_infinite() else math.floor(upper))
    if (least if first is None else first) > (most if last is None else last):
        kind = f"decimals of {scale} places" if scale else f"whole numbers from {least} to {most}"
        raise ArgumentError(
            f"column {column!r} holds {kind}, and none of them lies between the bounds {low!r} and {high!r}"
        )
    return first, last  # type: ignore[return-value]


def _written(end: float, scale: int) -> Decimal:
    """A bound as it was written, 2.3 and not the double beside it; as it is, where doubles are coarser."""
    return Decimal(end) if math.ulp(end) > 10.0**-scale else Decimal(repr(end))


def float_bounds(
    column: str, low: float, high: float, kind: type[np.floating[Any]]
) -> tuple[float | None, float | None]:
    """Bounds as a floating-point type holds them; None where there is nothing to do, also beyond its range.

    >>> float_bounds("x", 0.5, 1e39, np.float32)
    (0.5, None)
    """
    with np.errstate(over="ignore"):
        first, last = float(kind(low)), float(kind(high))
    if first == math.inf or last == -math.inf:
        most = np.finfo(kind).max
        raise ArgumentError(
            f"column {column!r} holds {kind.__name__} numbers from {-most:.3g} to {most:.3g}, and none of"
            f" them lies between the bounds {float(low)!r} and {float(high)!r}"
        )
    return (None if math.isinf(first) else first), (None if math.isinf(last) else last)


def check_pair(column: Any, low: float, high: float) -> None:
    """Refuse bounds in the wrong order, and such that leave infinity alone."""
    if low > high:
        raise ArgumentError(f"column {column!r}: the bounds are crossed, low={low!r} is above high={high!r}")
    if low == math.inf or high == -math.inf:
        raise ArgumentError(f"column {column!r}: no finite value lies between {low!r} and {high!r}")


def as_bound(column: Any, name: str, value: Any, missing: float) -> float:
    """A bound as `Bounds` keeps it.

    Raises:
        ArgumentError: it is no number, or beyond the range of a double.
    """
    if value is None:
        return missing
    if not is_number(value) or math.isnan(value):
        raise ArgumentError(f"column {column!r}: {name} must be a number or None, got {value!r}")
    try:
        near = float(value)
    except OverflowError as error:
        raise ArgumentError(f"column {column!r}: {name} lies beyond the range of a double") from error
    return int(value) if isinstance(value, Integral) and near != int(value) else near


def widened(pair: tuple[float, float], step: float | None) -> tuple[float, float]:
    """Bounds learnt in double precision, of numbers that are ``step`` apart; None for floating-point numbers.

    Where doubles are further apart than that, a bound may lie on the wrong side of the value it was learnt
    from, and is moved to the next double.

    >>> widened((0.0, 2.0**60), 1.0)
    (0.0, 1.1529215046068472e+18)
    """
    low, high = pair
    if step is None:
        return pair
    return (
        math.nextafter(low, -math.inf) if math.ulp(low) > step else low,
        math.nextafter(high, math.inf) if math.ulp(high) > step else high,
    )
