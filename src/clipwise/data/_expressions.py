"""Narwhals expressions for one column: its bounds in its own type, what lies outside, its values within."""

from decimal import Decimal
from typing import Any

import numpy as np

from clipwise.data._bounds import float_bounds, integer_bounds
from clipwise.data._extra import load

INTEGERS = {f"{sign}Int{bits}": (sign, bits) for sign in ("", "U") for bits in (8, 16, 32, 64, 128)}

Typed = tuple[Any, Any]


def is_float_or_integer(dtype: Any) -> bool:
    return dtype.is_float() or str(dtype) in INTEGERS


def step_of(dtype: Any) -> float | None:
    """How far apart the numbers of a type are; None for floating-point numbers."""
    if dtype.is_float():
        return None
    return 10.0**-dtype.scale if dtype.is_decimal() else 1.0


def typed_bounds(column: str, low: float, high: float, dtype: Any) -> Typed:
    """The bounds of a column in its type, None where there is none.

    Raises:
        ArgumentError: no value of the type lies between them.
    """
    if dtype.is_float():
        return float_bounds(column, low, high, np.dtype(str(dtype).lower()).type)
    if dtype.is_decimal():
        most = 10**dtype.precision - 1
        steps = integer_bounds(column, low, high, -most, most, dtype.scale)
        # From text, as arithmetic on decimals rounds to 28 digits.
        first, last = (None if end is None else Decimal(f"{end}e-{dtype.scale}") for end in steps)
        return first, last
    sign, bits = INTEGERS[str(dtype)]
    least, most = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return integer_bounds(column, low, high, least, most)


def below(value: Any, dtype: Any, low: Any) -> Any:
    return value < load("narwhals.stable.v2").lit(low, dtype)


def above(value: Any, dtype: Any, high: Any) -> Any:
    outside = value > load("narwhals.stable.v2").lit(high, dtype)
    # In DuckDB and Spark, NaN is greater than every number.
    return outside & ~value.is_nan() if dtype.is_float() else outside


def clipped(value: Any, dtype: Any, typed: Typed) -> Any:
    """The values within bounds of their type; NaN and null stay."""
    nw = load("narwhals.stable.v2")
    column, (low, high) = value, typed
    for outside, bound in ((above, high), (below, low)):
        if bound is not None:
            # The column comes first, as the result has the first one's type.
            stays = ~outside(column, dtype, bound) | column.is_null()
            value = nw.when(stays).then(value).otherwise(nw.lit(bound, dtype))
    return value


def finite(value: Any, dtype: Any) -> Any:
    """The finite values in double precision, null in place of all others."""
    nw = load("narwhals.stable.v2")
    if dtype.is_float():
        return nw.when(value.is_finite()).then(value).cast(nw.Float64)
    return (value / 1).cast(nw.Float64)  # Arrow alone refuses to cast whole numbers that a double rounds
