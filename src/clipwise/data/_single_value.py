"""The warning about bounds that leave one value of many."""

import warnings
from typing import Any


def single_value(low: float, high: float, smallest: float, largest: float) -> float | None:
    """What the values between two extremes all become, if they differ and the bounds leave one; None if not.

    >>> single_value(0.0, 0.0, 0.0, 9.0), single_value(-1.0, 3.0, 5.0, 7.0), single_value(0.0, 1.0, 0.0, 9.0)
    (0.0, 3.0, None)
    """
    first, last = (min(max(extreme, low), high) for extreme in (smallest, largest))
    return first if smallest < largest and first == last else None


def warn_of_single_value(
    column: Any,
    bounds: tuple[float, float],
    extremes: tuple[float, float],
    *,
    method: str | None = None,
    stacklevel: int = 3,
) -> None:
    """Warn if the bounds leave a column one value.

    Args:
        column: its label.
        bounds: low and high.
        extremes: the smallest and the largest of its finite values.
        method: how the bounds were learnt; None where they were at hand.
        stacklevel: whose line is named; 3 is who called the caller.
    """
    value = single_value(*bounds, *extremes)
    if value is None:
        return
    why = (
        f"its bounds, {bounds[0]!r} and {bounds[1]!r}, make {value!r} of all values"
        if method is None
        else f"method {method!r} makes {value!r} of all values, as most of them are the same"
    )
    warnings.warn(
        f"column {column!r}: {why}; give bounds, or leave the column out (columns=)", stacklevel=stacklevel
    )
