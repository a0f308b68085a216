"""The warning about bounds that leave one value of many."""

from typing import Any

from clipwise.stack import warn


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
) -> None:
    """Warn if the bounds leave a column one value.

    Args:
        column: its label.
        bounds: low and high.
        extremes: the smallest and the largest of its finite values.
        method: how the bounds were learnt; None where they were at hand.
    """
    value = single_value(*bounds, *extremes)
    if value is None:
        return
    why = (
        f"its bounds, {bounds[0]!r} and {bounds[1]!r}, make {value!r} of all values"
        if method is None
        else f"method {method!r} makes {value!r} of all values, as most of them are the same"
    )
    warn(f"column {column!r}: {why}; give bounds, or leave the column out (columns=)")
