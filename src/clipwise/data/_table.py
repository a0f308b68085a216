"""A table of narwhals, eager or lazy: the types and values of its columns, and counts by its own engine."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from clipwise.data._bounds import Bounds
from clipwise.data._expressions import Typed, above, below, clipped, finite, typed_bounds
from clipwise.data._extra import load
from clipwise.data._report import ClippingReport, ColumnReport
from clipwise.errors import ArgumentError


@dataclass(frozen=True)
class Table:
    """Columns by label, which is their name unless the frame allows labels that are no text.

    Attributes:
        frame: of narwhals.
        types: of narwhals.
        names: what ``frame`` calls each column.
    """

    frame: Any
    types: Mapping[Any, Any]
    names: Mapping[Any, str]

    @classmethod
    def of(cls, frame: Any, labels: Iterable[Any] | None = None) -> "Table":
        """A frame of narwhals, with other labels for its columns in their order if there are any."""
        schema = dict(frame.collect_schema())
        names = dict(zip(schema if labels is None else labels, schema, strict=True))
        return cls(frame, {label: schema[name] for label, name in names.items()}, names)

    def value(self, column: Any) -> Any:
        """The expression of a column."""
        return load("narwhals.stable.v2").col(self.names[column])

    def typed(self, bounds: Bounds) -> dict[Any, Typed]:
        """The bounds in the type of each column, None where there is none."""
        return {column: typed_bounds(column, *pair, self.types[column]) for column, pair in bounds.items()}

    def clipped(self, typed: Mapping[Any, Typed]) -> Any:
        """The frame with these columns within their bounds."""
        changed = [
            clipped(self.value(column), self.types[column], pair).alias(self.names[column])
            for column, pair in typed.items()
            if pair != (None, None)
        ]
        return self.frame.with_columns(changed) if changed else self.frame

    def count_outside(self, bounds: Bounds, typed: Mapping[Any, Typed]) -> tuple[int, ClippingReport]:
        """The number of rows, and how many values lie outside the bounds on each side."""
        nw = load("narwhals.stable.v2")
        asked: dict[str, Any] = {"rows": nw.len()}
        for i, column in enumerate(bounds):
            value, dtype, (low, high) = self.value(column), self.types[column], typed[column]
            known = _count_where(~value.is_nan()) if dtype.is_float() else value.count()
            inside = finite(value, dtype)
            asked |= {f"count{i}": known, f"smallest{i}": inside.min(), f"largest{i}": inside.max()}
            if low is not None:
                asked[f"below{i}"] = _count_where(below(value, dtype, low))
            if high is not None:
                asked[f"above{i}"] = _count_where(above(value, dtype, high))
        row = self.aggregates(asked)
        rows = int(row["rows"])
        reports = []
        for i, (column, (low, high)) in enumerate(bounds.items()):
            # A sum over nothing is null in SQL.
            known, lower, higher = (int(row.get(f"{key}{i}") or 0) for key in ("count", "below", "above"))
            extremes = (row[f"{key}{i}"] for key in ("smallest", "largest"))
            smallest, largest = (math.nan if end is None else float(end) for end in extremes)
            reports.append(
                ColumnReport(column, low, high, known, rows - known, lower, higher, smallest, largest)
            )
        return rows, ClippingReport(tuple(reports))

    def aggregates(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Aggregates as numbers of Python; None for a null, and for NaN, which is an aggregate of nothing."""
        nw = load("narwhals.stable.v2")
        found = self.frame.select(**asked)
        row = (found.collect() if isinstance(found, nw.LazyFrame) else found).row(0)
        return {name: _plain(value) for name, value in zip(asked, row, strict=True)}


def refuse_empty(column: Any, count: int) -> None:
    """Refuse to learn from a column without a finite number."""
    if not count:
        raise ArgumentError(f"column {column!r} is empty: it holds no finite number to learn bounds from")


def _count_where(condition: Any) -> Any:
    """In how many rows it holds; null is no. (Dask cannot cast a column of truths with nulls.)"""
    nw = load("narwhals.stable.v2")
    return nw.when(condition).then(nw.lit(1)).otherwise(nw.lit(0)).sum()


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or str(value) in ("<NA>", "nan") else value
