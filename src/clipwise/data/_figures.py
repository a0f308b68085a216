"""Figures of a frame's columns, computed by its own engine; what is fetched is a row."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipwise.data._extra import load
from clipwise.data._moments import unit_of
from clipwise.data._rule import Rule
from clipwise.errors import ArgumentError

__all__ = ["engine_figures", "finite_values", "one_row"]


def engine_figures(
    table: Any, schema: Mapping[str, Any], names: Sequence[str], rule: Rule
) -> dict[str, tuple[float, float]]:
    """The two figures of `Rule.interval` for each column."""
    nw = load("narwhals.stable.v2")
    values = dict(enumerate(finite_values(nw, name, schema) for name in names))
    asked: dict[str, Any] = {f"count{i}": value.count() for i, value in values.items()}
    for i, value in values.items():
        if rule.method == "deviations":
            asked[f"largest{i}"] = value.abs().max()
        for key, level in zip(("first", "second"), rule.levels, strict=False):
            asked[f"{key}{i}"] = _quantile(value, level)
    row = one_row(table, asked)
    for i, name in enumerate(names):
        if not row[f"count{i}"]:
            raise ArgumentError(f"column {name!r} is empty: it holds no finite number to learn bounds from")
    units = dict.fromkeys(values, 1.0)
    more: dict[str, Any] = {}
    for i, value in values.items():
        if rule.method == "mad":
            more[f"second{i}"] = _quantile((value - row[f"first{i}"]).abs(), 0.5)
        elif rule.method == "deviations":
            # In a unit near the largest value, so that no square leaves the range of a double.
            units[i] = unit_of(float(row[f"largest{i}"]))
            scaled = value / units[i]
            more |= {f"first{i}": scaled.mean(), f"second{i}": scaled.std(ddof=0)}
    row |= one_row(table, more) if more else {}
    return {
        name: (float(row[f"first{i}"]) * units[i], float(row[f"second{i}"]) * units[i])
        for i, name in enumerate(names)
    }


def _quantile(value: Any, level: float) -> Any:
    """A median, too: what Arrow calls one is rough."""
    return value.quantile(level, interpolation="linear")


def finite_values(nw: Any, column: str, schema: Mapping[str, Any]) -> Any:
    """The finite values of a column in double precision, null in the place of all others."""
    value = nw.col(column)
    if schema[column].is_float():
        return nw.when(value.is_finite()).then(value).cast(nw.Float64)
    return (value / 1).cast(nw.Float64)  # Arrow alone refuses to cast whole numbers that a double rounds


def one_row(table: Any, asked: Mapping[str, Any]) -> dict[str, Any]:
    nw = load("narwhals.stable.v2")
    found = table.select(**asked)
    row = (found.collect() if isinstance(found, nw.LazyFrame) else found).row(0)
    return {name: _plain(value) for name, value in zip(asked, row, strict=True)}


def _plain(value: Any) -> Any:
    """A figure as a number of Python; None for a null, and for NaN, which is a figure of nothing."""
    value = value.item() if hasattr(value, "item") else value
    if value is None or str(value) in ("<NA>", "nan"):
        return None
    return value
