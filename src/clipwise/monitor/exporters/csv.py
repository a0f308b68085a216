"""CSV: a table that every program reads."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clipwise.monitor.exporters._feed import Fed, feed
from clipwise.monitor.exporters._tables import ALERTS, Column, Tables
from clipwise.monitor.store import Alert, Run, Store

__all__ = ["CSV", "to_csv"]

AT_ONCE = 10_000
"""Rows that are text in memory at a time."""


class CSV(Tables):
    """One row a step, in ``<run>.csv``; beside it ``<run>.layers.csv`` and ``<run>.alerts.csv``.

    The second has the norm of each parameter's gradient, the third the alerts; each only where there are any.
    A cell is empty where nothing was recorded; otherwise ``NaN``, ``inf``, ``-inf``, or the shortest number
    that reads back as the same float64. The files are written when the run ends.

    Args:
        path: of the file, ending in ``.csv``; or of a folder, where it is called after the run.
        taken: what to do where one of the files is there: ``"number"`` (``<run>-2.csv``), ``"refuse"`` or
            ``"replace"``.

    Raises:
        ArgumentError: ``taken`` is none of these.

    >>> import tempfile, numpy as np
    >>> from clipwise.monitor.store import Rows
    >>> folder = tempfile.TemporaryDirectory()
    >>> exporter = CSV(folder.name)
    >>> exporter.begin("lstm", {})
    >>> exporter.write([Rows("steps", ("loss",), np.array([[1, 0.7], [2, np.nan]]))])
    >>> exporter.write([Rows("steps", ("accuracy",), np.array([[2, 0.5]]))])
    >>> exporter.close()
    >>> print(exporter.place.read_text(), end="")
    step,loss,accuracy
    1,0.7,
    2,NaN,0.5
    """

    suffix = ".csv"

    def _table(self, path: Path, steps: NDArray[np.int64], columns: Sequence[Column]) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["step", *(column.name for column in columns)])
            for start in range(0, len(steps), AT_ONCE):
                part = slice(start, start + AT_ONCE)
                cells = [_cells(column.values[part], column.there[part]) for column in columns]
                writer.writerows(zip(steps[part].tolist(), *cells, strict=True))

    def _texts(self, path: Path, alerts: Sequence[Alert]) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(ALERTS)
            writer.writerows([getattr(alert, name) for name in ALERTS] for alert in alerts)


def _cells(values: NDArray[np.float64], there: NDArray[np.bool_]) -> list[str]:
    return [
        "" if not known else "NaN" if value != value else repr(value)
        for value, known in zip(values.tolist(), there.tolist(), strict=True)
    ]


def to_csv(
    store: Store, run: Run | int | str | None, path: str | os.PathLike[str] = ".", *, force: bool = False
) -> Fed:
    """Write a recorded run as `CSV` does.

    Args:
        store: the recording.
        run: its number, its name, or None for the newest.
        path: of the file, or of a folder.
        force: whether files that are there are replaced.

    Raises:
        ArgumentError: one of the files is there, and ``force`` is not said.
        StoreError: there is no such run.
    """
    return feed(store, run, CSV(Path(path), taken="replace" if force else "refuse"))
