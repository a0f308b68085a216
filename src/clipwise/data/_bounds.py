"""The bounds of columns: what is learnt once and applied anywhere."""

import json
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np

from clipwise.errors import ArgumentError

__all__ = ["Bounds", "check_pair", "finite_or_none", "whole"]


class Bounds(Mapping[str, tuple[float, float]]):
    """By column, the lowest and the highest value that stay; ``-inf`` and ``inf`` where there is no bound.

    Args:
        bounds: by column, ``(low, high)``; None for no bound on that side.

    Raises:
        ArgumentError: a bound is no number, or the two of a column are crossed.

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
            low = _number(column, "low", pair[0], -math.inf)
            high = _number(column, "high", pair[1], math.inf)
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
        """The bounds as JSON; a side without a bound is null, and every number comes back to the bit."""
        plain = {c: [finite_or_none(low), finite_or_none(high)] for c, (low, high) in self.items()}
        return json.dumps({"bounds": plain}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Bounds":
        """What `to_json` wrote.

        Raises:
            ArgumentError: the text is no JSON, or holds no bounds.
        """
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ArgumentError(f"no JSON: {error}") from error
        if not isinstance(found, dict) or not isinstance(found.get("bounds"), dict):
            raise ArgumentError('expected a JSON object with the key "bounds"')
        return cls(found["bounds"])


def finite_or_none(value: float) -> float | None:
    """A number as JSON can hold it."""
    return float(value) if math.isfinite(value) else None


def whole(
    column: str, low: float | Decimal, high: float | Decimal, least: int, most: int
) -> tuple[int | None, int | None]:
    """Bounds of whole numbers from ``least`` to ``most``: rounded inwards, None where there is nothing to do.

    >>> whole("count", -0.5, 3.7, 0, 255)
    (None, 3)
    """
    first = None if low <= least else (math.inf if math.isinf(low) else math.ceil(low))
    last = None if high >= most else (-math.inf if math.isinf(high) else math.floor(high))
    if (least if first is None else first) > (most if last is None else last):
        raise ArgumentError(
            f"column {column!r} holds whole numbers from {least} to {most}, and none of them lies between the"
            f" bounds {low!r} and {high!r}"
        )
    return first, last  # type: ignore[return-value]


def check_pair(column: Any, low: float, high: float) -> None:
    """Refuse bounds in the wrong order, and such that leave infinity alone."""
    if low > high:
        raise ArgumentError(f"column {column!r}: the bounds are crossed, low={low!r} is above high={high!r}")
    if low == math.inf or high == -math.inf:
        raise ArgumentError(f"column {column!r}: no finite value lies between {low!r} and {high!r}")


def _number(column: str, name: str, value: Any, missing: float) -> float:
    if value is None:
        return missing
    if not isinstance(value, Real | np.number) or isinstance(value, bool) or math.isnan(value):
        raise ArgumentError(f"column {column!r}: {name} must be a number or None, got {value!r}")
    return float(value)
