"""Bounds on data frames, learnt and applied by the engine that holds them: lazy stays lazy.

pandas, Polars (eager and lazy), PyArrow, DuckDB, Dask and PySpark, through narwhals.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from clipwise.data._bounds import Bounds, in_float, outwards, whole
from clipwise.data._dask import dask_figures
from clipwise.data._extra import load
from clipwise.data._figures import engine_figures, finite_values, one_row
from clipwise.data._report import ClippingReport, ColumnReport
from clipwise.data._rule import Given, Method, Side, make_rule, named
from clipwise.data._statistics import RANK_ERROR
from clipwise.errors import ArgumentError, did_you_mean

__all__ = ["clip", "learn", "report"]

Frame = TypeVar("Frame")

INTEGERS = {f"{sign}Int{bits}": (sign, bits) for sign in ("", "U") for bits in (8, 16, 32, 64, 128)}


def clip(frame: Frame, bounds: Any) -> Frame:
    """The frame with its columns brought within bounds, by its own engine; a lazy frame stays lazy.

    NaN and nulls stay what they are, and every column keeps its type: of whole numbers the bounds are rounded
    inwards, of single precision to the nearest number.

    Args:
        frame: of pandas, Polars, PyArrow, DuckDB, Dask or PySpark.
        bounds: `Bounds`, ``{column: (low, high)}``, or a fitted `Clipper`.

    Raises:
        ArgumentError: this is no frame, a column is not there or holds no numbers, or no whole number lies
            between the bounds.

    >>> import polars as pl
    >>> frame = pl.LazyFrame({"amount": [-300.0, None, 7.5], "country": ["UK", "UK", "France"]})
    >>> clip(frame, {"amount": (-10, 10)}).collect()["amount"].to_list()
    [-10.0, None, 7.5]
    """
    table = _table(frame)
    wanted, schema = _bounds(bounds), _schema(table)
    ends = _ends(wanted, schema)
    nw = load("narwhals.stable.v2")
    clipped = []
    for column, (low, high) in ends.items():
        value = nw.col(column)
        for outside, bound in ((_above, high), (_below, low)):
            if bound is not None:
                # The column comes first, as the result has the first one's type.
                stays = ~outside(nw, column, schema, bound) | nw.col(column).is_null()
                value = nw.when(stays).then(value).otherwise(nw.lit(bound, schema[column]))
        clipped.append(value.alias(column))
    result: Frame = (table.with_columns(clipped) if clipped else table).to_native()
    return result


def learn(
    frame: Any,
    method: Method = "quantiles",
    *,
    columns: Sequence[str] | None = None,
    low: Given = None,
    high: Given = None,
    factor: float | None = None,
    side: Side = "both",
    rank_error: float = RANK_ERROR,
) -> Bounds:
    """Bounds for columns of a frame, computed by its own engine.

    What is fetched is one row of figures (two for ``mad`` and ``deviations``). Quantiles are the engine's
    exact ones, linear between neighbours; Dask, which has none over several partitions, makes a KLL sketch of
    each partition where it lies and sends that. Where sketches are full, as for `Clipper`, bounds differ from
    run to run by that error.

    Args:
        frame: of pandas, Polars, PyArrow, DuckDB, Dask or PySpark.
        method, low, high, factor, side: as for `Clipper`.
        columns: names; None for every column of floats or whole numbers.
        rank_error: of Dask's sketches.

    Raises:
        ArgumentError: an argument is outside what is allowed, or a column is not there, holds no numbers or
            is empty.

    >>> import pandas as pd
    >>> learn(pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, 100.0]}), "iqr")
    Bounds({'x': (-1.0, 7.0)})
    """
    rule = make_rule(method, low, high, factor, side)
    table = _table(frame)
    schema = _schema(table)
    names = _chosen(schema, columns)
    if rule.method == "given":
        return Bounds(dict(zip(names, rule.given(names), strict=True)))
    by_sketch = bool(rule.levels) and table.implementation.is_dask()
    figures = (
        dask_figures(frame, names, rule, rank_error)
        if by_sketch
        else engine_figures(table, schema, names, rule)
    )
    steps = {name: None if schema[name].is_float() else 1.0 for name in names}
    return Bounds({name: outwards(rule.interval(name, *figures[name]), steps[name]) for name in names})


def report(frame: Any, bounds: Any) -> ClippingReport:
    """How much of a frame the bounds would clip on each side, counted by its own engine.

    Args:
        frame, bounds: as for `clip`.

    >>> import polars as pl
    >>> print(report(pl.DataFrame({"x": [1, 2, 3, 4, 100]}), {"x": (None, 7)}))
    x: [-inf, 7] of [1, 100] clips 0 below (0.00%) and 1 above (20.00%) of 5
    """
    table = _table(frame)
    wanted, schema = _bounds(bounds), _schema(table)
    ends = _ends(wanted, schema)
    nw = load("narwhals.stable.v2")
    asked: dict[str, Any] = {"rows": nw.len()}
    for i, column in enumerate(wanted):
        value, finite = nw.col(column), finite_values(nw, column, schema)
        known = _number(nw, ~value.is_nan()) if schema[column].is_float() else value.count()
        asked |= {f"count{i}": known, f"smallest{i}": finite.min(), f"largest{i}": finite.max()}
        low, high = ends[column]
        if low is not None:
            asked[f"below{i}"] = _number(nw, _below(nw, column, schema, low))
        if high is not None:
            asked[f"above{i}"] = _number(nw, _above(nw, column, schema, high))
    row = one_row(table, asked)
    rows = int(row["rows"])
    reports = []
    for i, (column, (low, high)) in enumerate(wanted.items()):
        # A sum over nothing is null in SQL.
        count, below, above = (int(row.get(f"{key}{i}") or 0) for key in ("count", "below", "above"))
        ends_seen = (row[f"{key}{i}"] for key in ("smallest", "largest"))
        smallest, largest = (math.nan if end is None else float(end) for end in ends_seen)
        reports.append(ColumnReport(column, low, high, count, rows - count, below, above, smallest, largest))
    return ClippingReport(tuple(reports))


def _table(frame: Any) -> Any:
    nw = load("narwhals.stable.v2")
    try:
        return nw.from_native(frame)
    except TypeError as error:
        raise ArgumentError(
            "expected a frame of pandas, Polars, PyArrow, DuckDB, Dask or PySpark, got"
            f" {type(frame).__module__}.{type(frame).__qualname__}"
        ) from error


def _bounds(bounds: Any) -> Bounds:
    found = getattr(bounds, "bounds_", bounds)
    if not isinstance(found, Mapping):
        raise ArgumentError(f"expected Bounds, a mapping by column or a fitted Clipper, got {bounds!r}")
    return found if isinstance(found, Bounds) else Bounds(found)


def _schema(table: Any) -> dict[str, Any]:
    return dict(table.collect_schema())


def _chosen(schema: Mapping[str, Any], columns: Sequence[str] | None) -> list[str]:
    """The columns to learn from, each of numbers."""
    if columns is None:
        names = [name for name, dtype in schema.items() if _is_number(dtype)]
        if not names:
            raise ArgumentError(f"no column of floats or whole numbers among {', '.join(map(repr, schema))}")
    else:
        names = named(columns)
    for name in names:
        _check(name, schema)
    return names


def _check(column: str, schema: Mapping[str, Any]) -> None:
    if column not in schema:
        raise ArgumentError(f"no column {column!r} in this frame. {did_you_mean(str(column), schema)}")
    dtype = schema[column]
    if not _is_number(dtype):
        hint = "; cast it to a float first" if dtype.is_decimal() else ""
        raise ArgumentError(f"column {column!r} must be floats or whole numbers, it is {dtype}{hint}")


def _is_number(dtype: Any) -> bool:
    return dtype.is_float() or str(dtype) in INTEGERS


def _ends(bounds: Bounds, schema: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The bounds in the type of each column, None where there is none."""
    ends: dict[str, tuple[Any, Any]] = {}
    for column, (low, high) in bounds.items():
        _check(column, schema)
        if schema[column].is_float():
            ends[column] = in_float(column, low, high, np.dtype(str(schema[column]).lower()).type)
        else:
            sign, bits = INTEGERS[str(schema[column])]
            least, most = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            ends[column] = whole(column, low, high, least, most)
    return ends


def _below(nw: Any, column: str, schema: Mapping[str, Any], low: Any) -> Any:
    return nw.col(column) < nw.lit(low, schema[column])


def _above(nw: Any, column: str, schema: Mapping[str, Any], high: Any) -> Any:
    above = nw.col(column) > nw.lit(high, schema[column])
    # In DuckDB and Spark, NaN is greater than every number.
    return above & ~nw.col(column).is_nan() if schema[column].is_float() else above


def _number(nw: Any, condition: Any) -> Any:
    """In how many rows it holds; null is no. (Dask cannot cast a column of truths with nulls.)"""
    return nw.when(condition).then(nw.lit(1)).otherwise(nw.lit(0)).sum()
