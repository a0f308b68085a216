"""Bounds for data frames, learned and applied by the engine of the frame: lazy frames stay lazy.

pandas, Polars (eager and lazy), PyArrow, DuckDB, Dask and PySpark, through narwhals.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from clipwise.data._aggregates import engine_statistics
from clipwise.data._bounds import Bounds, widened
from clipwise.data._dask import dask_statistics
from clipwise.data._expressions import Typed, finite, is_float_or_integer, step_of
from clipwise.data._extra import load
from clipwise.data._report import ClippingReport
from clipwise.data._rule import Given, Method, Side, bounds_rule, distinct_names
from clipwise.data._single_value import warn_of_single_value
from clipwise.data._statistics import RANK_ERROR
from clipwise.data._table import Table
from clipwise.errors import ArgumentError, did_you_mean

__all__ = ["clip", "learn", "report"]

Frame = TypeVar("Frame")


def clip(frame: Frame, bounds: Any) -> Frame:
    """The frame with its columns clipped to bounds, by its own engine; a lazy frame stays lazy.

    NaN and nulls are kept, and every column keeps its type: bounds are rounded inwards for integers, and to
    the nearest number for single precision.

    Args:
        frame: a frame of pandas, Polars, PyArrow, DuckDB, Dask or PySpark.
        bounds: `Bounds`, ``{column: (low, high)}``, or a fitted `Clipper`.

    Returns:
        A new frame of the same kind.

    Raises:
        ArgumentError: the argument is not a frame, a column does not exist or is not numeric, or no integer
            lies between the bounds.

    >>> import polars as pl
    >>> frame = pl.LazyFrame({"amount": [-300.0, None, 7.5], "country": ["UK", "UK", "France"]})
    >>> clip(frame, {"amount": (-10, 10)}).collect()["amount"].to_list()
    [-10.0, None, 7.5]
    """
    table, wanted = _table(frame), _bounds(bounds)
    _check(wanted, table)
    typed = table.typed(wanted)
    if getattr(bounds, "method", None) != "given" and not isinstance(bounds, dict):
        _warn_of_points(table, wanted, typed)
    return _native(table.clipped(typed), frame)


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

    Only one row of statistics is fetched (two for ``mad`` and ``deviations``). Quantiles are exact, with
    linear interpolation. Dask has no exact quantiles over several partitions: each partition is reduced to a
    KLL sketch where it is, and only the sketches are sent. Once sketches are full, bounds differ between runs
    by up to ``rank_error``, as for `Clipper`.

    Args:
        frame: a frame of pandas, Polars, PyArrow, DuckDB, Dask or PySpark.
        method, low, high, factor, side: as for `Clipper`.
        columns: names; None for every column of floats or integers.
        rank_error: accuracy of Dask's sketches.

    Returns:
        The `Bounds`.

    Raises:
        ArgumentError: an argument is not allowed, or a column does not exist, is not numeric or is empty.

    >>> import pandas as pd
    >>> learn(pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0, 100.0]}), "iqr")
    Bounds({'x': (-1.0, 7.0)})
    """
    rule = bounds_rule(method, low, high, factor, side)
    table = _table(frame)
    names = _chosen(table, columns)
    if rule.method == "given":
        return Bounds(dict(zip(names, rule.given(names), strict=True)))
    by_sketch = bool(rule.levels) and table.frame.implementation.is_dask()
    statistics = (
        dask_statistics(frame, names, rule, rank_error)
        if by_sketch
        else engine_statistics(table, names, rule)
    )
    found = {}
    for name, (first, second, *extremes) in statistics.items():
        found[name] = widened(rule.interval(name, first, second), step_of(table.types[name]))
        warn_of_single_value(name, found[name], (extremes[0], extremes[1]), method=method)
    return Bounds(found)


def report(frame: Any, bounds: Any) -> ClippingReport:
    """How many values of a frame the bounds would clip on each side, counted by its own engine.

    Args:
        frame, bounds: as for `clip`.

    Returns:
        A `ClippingReport`.

    >>> import polars as pl
    >>> print(report(pl.DataFrame({"x": [1, 2, 3, 4, 100]}), {"x": (None, 7)}))
    x: [-inf, 7] of [1, 100] clips 0 below (0.00%) and 1 above (20.00%) of 5
    """
    table, wanted = _table(frame), _bounds(bounds)
    _check(wanted, table)
    return table.count_outside(wanted, table.typed(wanted))[1]


def _table(frame: Any) -> Table:
    """The frame with its columns by label; only pandas and Dask have labels that are no text."""
    nw = load("narwhals.stable.v2")
    labels = list(frame.columns) if _has_index(frame) else None
    if labels is not None and len(set(labels)) < len(labels):
        twice = next(label for i, label in enumerate(labels) if label in labels[:i])
        raise ArgumentError(f"two columns of this frame are called {twice!r}")
    if labels is None or all(isinstance(label, str) for label in labels):
        labels = None
    else:
        frame = frame.copy()
        frame.columns = [str(i) for i in range(len(labels))]
    try:
        return Table.of(nw.from_native(frame), labels)
    except TypeError as error:
        raise ArgumentError(
            "expected a frame of pandas, Polars, PyArrow, DuckDB, Dask or PySpark, got"
            f" {type(frame).__module__}.{type(frame).__qualname__}"
        ) from error


def _native(table: Any, frame: Frame) -> Frame:
    """A frame of narwhals as its engine's, with the labels of the frame that it was made of."""
    result: Any = table.to_native()
    if _has_index(frame):
        result.columns = frame.columns  # type: ignore[attr-defined]
    made: Frame = result
    return made


def _has_index(frame: Any) -> bool:
    """Whether the columns are an index, as in pandas and Dask, with labels of any kind."""
    kinds = load("narwhals.stable.v2").dependencies
    return bool(kinds.is_pandas_like_dataframe(frame) or kinds.is_dask_dataframe(frame))


def _bounds(bounds: Any) -> Bounds:
    found = getattr(bounds, "bounds_", bounds)
    if not isinstance(found, Mapping):
        raise ArgumentError(f"expected Bounds, a mapping by column or a fitted Clipper, got {bounds!r}")
    return found if isinstance(found, Bounds) else Bounds(found)


def _chosen(table: Table, columns: Sequence[str] | None) -> list[Any]:
    """The columns to learn from, each of numbers."""
    if columns is None:
        names = [name for name, dtype in table.types.items() if is_float_or_integer(dtype)]
        if not names:
            raise ArgumentError(
                f"no column of floats or whole numbers among {', '.join(map(repr, table.types))}"
            )
    else:
        names = distinct_names(columns)
    _check(names, table)
    return names


def _check(columns: Iterable[Any], table: Table) -> None:
    for column in columns:
        if column not in table.types:
            near = did_you_mean(str(column), map(str, table.types))
            raise ArgumentError(f"no column {column!r} in this frame. {near}")
        dtype = table.types[column]
        if not is_float_or_integer(dtype):
            hint = "; cast it to a float first" if dtype.is_decimal() else ""
            raise ArgumentError(f"column {column!r} must be floats or whole numbers, it is {dtype}{hint}")


def _warn_of_points(table: Table, bounds: Bounds, typed: Mapping[Any, Typed]) -> None:
    """Warn of columns whose bounds are one point; of an eager frame only if it is not their one value."""
    points = [column for column, (low, high) in typed.items() if low is not None and low == high]
    lazy = isinstance(table.frame, load("narwhals.stable.v2").LazyFrame)
    for column in points:
        extremes = (-math.inf, math.inf)
        if not lazy:
            value = finite(table.value(column), table.types[column])
            row = table.aggregates({"smallest": value.min(), "largest": value.max()})
            smallest, largest = (math.nan if end is None else float(end) for end in row.values())
            extremes = smallest, largest
        warn_of_single_value(column, bounds[column], extremes)
