"""The warning about bounds that make all values of a column the same."""

from typing import Any

from clipwise.stack import warn


def single_value(low: float, high: float, smallest: float, largest: float) -> float | None:
    """What all values between two extremes become, if they differ and the bounds leave one value; else None.

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
) -> None:
    """Warn if the bounds make all values of a column the same.

    Args:
        column: label of the column.
        bounds: low and high.
        extremes: the smallest and the largest of its finite values.
        method: how the bounds were learned; None if they were given.
    """
    value = single_value(*bounds, *extremes)
    if value is None:
        return
    why = (
        f"its bounds, {bounds[0]!r} and {bounds[1]!r}, set all values to {value!r}"
        if method is None
        else f"method {method!r} sets all values to {value!r}, as most of them are the same"
    )
    warn(f"column {column!r}: {why}; give bounds, or leave the column out (columns=)")
