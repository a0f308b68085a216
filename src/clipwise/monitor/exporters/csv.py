"""CSV: a table that every program reads."""

import csv
from collections.abc import Sequence
from pathlib import Path

from clipwise.monitor.exporters._tables import ALERTS, Table, Tables
from clipwise.monitor.store import Alert


class CSV(Tables):
    """One row a step, in ``<run>.csv``; beside it ``<run>.layers.csv`` and ``<run>.alerts.csv``.

    The second has the norm of each parameter's gradient, the third the alerts; each only where there are any.
    A cell is empty where nothing was recorded; otherwise ``NaN``, ``inf``, ``-inf``, or the shortest number
    that reads back as the same float64. A live run is written when it ends.

    Args:
        path: of the file, ending in ``.csv``; or of a folder, where it is called after the run.
        taken: what to do where one of the files is there: ``"number"`` (``<run>-2.csv``), ``"refuse"`` or
            ``"replace"``.

    Raises:
        ArgumentError: ``taken`` is not one of these.

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
