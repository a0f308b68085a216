"""Statistics of a frame's columns, computed by its own engine; what is fetched is a row."""

from collections.abc import Sequence
from typing import Any

from clipwise.data._expressions import finite
from clipwise.data._moments import power_of_two_below
from clipwise.data._rule import BoundsRule
from clipwise.data._statistics import ColumnStatistics
from clipwise.data._table import Table, refuse_empty


def engine_statistics(table: Table, columns: Sequence[Any], rule: BoundsRule) -> dict[Any, ColumnStatistics]:
    """The statistics that the bounds of each column follow from."""
    values = {i: finite(table.value(column), table.types[column]) for i, column in enumerate(columns)}
    asked: dict[str, Any] = {}
    for i, value in values.items():
        asked |= {f"count{i}": value.count(), f"smallest{i}": value.min(), f"largest{i}": value.max()}
        for key, level in zip(("first", "second"), rule.levels, strict=False):
            asked[f"{key}{i}"] = _quantile(value, level)
    row = table.aggregates(asked)
    for i, column in enumerate(columns):
        refuse_empty(column, row[f"count{i}"])
    units = dict.fromkeys(values, 1.0)
    more: dict[str, Any] = {}
    for i, value in values.items():
        if rule.method == "mad":
            more[f"second{i}"] = _quantile((value - row[f"first{i}"]).abs(), 0.5)
        elif rule.method == "deviations":
            # In a unit near the largest value, so that no square leaves the range of a double.
            units[i] = power_of_two_below(
                max(abs(float(row[f"{end}{i}"])) for end in ("smallest", "largest"))
            )
            scaled = value / units[i]
            more |= {f"first{i}": scaled.mean(), f"second{i}": scaled.std(ddof=0)}
    row |= table.aggregates(more) if more else {}
    return {
        column: ColumnStatistics(
            float(row[f"first{i}"]) * units[i],
            float(row[f"second{i}"]) * units[i],
            float(row[f"smallest{i}"]),
            float(row[f"largest{i}"]),
        )
        for i, column in enumerate(columns)
    }


def _quantile(value: Any, level: float) -> Any:
    """A median, too: what Arrow calls one is rough."""
    return value.quantile(level, interpolation="linear")
