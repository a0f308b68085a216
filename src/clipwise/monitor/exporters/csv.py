"""Export to CSV."""

import csv
from collections.abc import Sequence
from pathlib import Path

from clipwise.monitor.exporters._tables import ALERTS, Table, Tables
from clipwise.monitor.store import Alert


class CSV(Tables):
    """One row per step in ``<run>.csv``; beside it ``<run>.layers.csv`` and ``<run>.alerts.csv``.

    The second file holds the norm of each parameter's gradient, the third the alerts; they are written only
    if there are any. A cell is empty if nothing was recorded; otherwise it holds ``NaN``, ``inf``, ``-inf``,
    or the shortest number that reads back as the same float64. During a run, the files are written at its
    end.

    Args:
        path: a file name ending in ``.csv``; or a folder, in which the file is named after the run.
        taken: what to do if a file exists: ``"number"`` (``<run>-2.csv``), ``"refuse"`` or ``"replace"``.

    Raises:
        ArgumentError: ``taken`` has another value.

    >>> import tempfile
    >>> from clipwise.monitor import Monitor, Store
    >>> from clipwise.monitor.exporters import export
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Monitor(f"{folder}/runs.db", run="lstm", exporters=[CSV(folder)]) as monitor:
    ...         monitor.log(step=1, loss=0.7)
    ...         monitor.log(step=2, loss=float("nan"), accuracy=0.5)
    ...     text = Path(folder, "lstm.csv").read_text()
    >>> [",".join(line.split(",")[::2]) for line in text.splitlines()]
    ['step,loss', '1,0.7', '2,NaN']
    """

    name = "csv"
    suffix = ".csv"

    def _open(self, path: Path, names: Sequence[str]) -> Table:
        return _Table(path, names)

    def _texts(self, path: Path, alerts: Sequence[Alert]) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(ALERTS)
            writer.writerows([getattr(alert, name) for name in ALERTS] for alert in alerts)


class _Table:
    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(["step", *names])

    def add(self, step: int, cells: Sequence[float | None]) -> None:
        # An empty cell is None, and the writer shows floats as Python does.
        self._writer.writerow([step, *("NaN" if cell != cell else cell for cell in cells)])

    def close(self) -> None:
        self._file.close()
