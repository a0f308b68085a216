"""Parquet: a table with types, for data frames."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipwise.monitor.exporters._base import load
from clipwise.monitor.exporters._feed import Fed, feed
from clipwise.monitor.exporters._tables import ALERTS, Column, Tables
from clipwise.monitor.store import Alert, Run, Store

__all__ = ["Parquet", "to_parquet"]


class Parquet(Tables):
    """The tables of `CSV` as Parquet: float64 and int64, null where nothing was recorded.

    NaN and Inf are what they are. Written by polars, or by pyarrow where polars is not installed.

    Args:
        path: of the file, ending in ``.parquet``; or of a folder, where it is called after the run.
        taken: as for `CSV`.

    Raises:
        ArgumentError: ``taken`` is none of ``"number"``, ``"refuse"`` and ``"replace"``.
        ModuleNotFoundError: neither is installed.
    """

    suffix = ".parquet"

    def __init__(self, path: str | Path = ".", *, taken: Any = "number") -> None:
        super().__init__(path, taken=taken)
        self._save = _saver()

    def _table(self, path: Path, steps: NDArray[np.int64], columns: Sequence[Column]) -> None:
        self._save(path, {"step": (steps, None)} | {one.name: (one.values, one.there) for one in columns})

    def _texts(self, path: Path, alerts: Sequence[Alert]) -> None:
        self._save(path, {name: ([getattr(alert, name) for alert in alerts], None) for name in ALERTS})


def _saver() -> Any:
    try:
        polars = load("polars", "parquet")
    except ModuleNotFoundError as missing:
        try:
            load("pyarrow", "parquet")
        except ModuleNotFoundError:
            raise missing from None
        return _with_pyarrow
    return lambda path, table: _with_polars(polars, path, table)


def _with_polars(polars: Any, path: Path, table: dict[str, tuple[Any, Any]]) -> None:
    columns = []
    for name, (values, there) in table.items():
        column = polars.Series(name, values)
        columns.append(column if there is None else column.set(polars.Series(~there), None))
    polars.DataFrame(columns).write_parquet(path)


def _with_pyarrow(path: Path, table: dict[str, tuple[Any, Any]]) -> None:
    pyarrow: Any = load("pyarrow", "parquet")
    columns = {
        name: pyarrow.array(values, mask=None if there is None else ~there, from_pandas=False)
        for name, (values, there) in table.items()
    }
    load("pyarrow.parquet", "parquet").write_table(pyarrow.table(columns), path)


def to_parquet(
    store: Store, run: Run | int | str | None, path: str | os.PathLike[str] = ".", *, force: bool = False
) -> Fed:
    """Write a recorded run as `Parquet` does.

    Args:
        store: the recording.
        run: its number, its name, or None for the newest.
        path: of the file, or of a folder.
        force: whether files that are there are replaced.

    Raises:
        ArgumentError: one of the files is there, and ``force`` is not said.
        StoreError: there is no such run.
    """
    return feed(store, run, Parquet(Path(path), taken="replace" if force else "refuse"))
