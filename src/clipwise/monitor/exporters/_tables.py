"""Wide tables: one row a step, one column a name. What CSV and Parquet share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipwise.errors import ArgumentError
from clipwise.files import replacing
from clipwise.monitor.exporters._base import Taken, as_taken, file_name, vacant
from clipwise.monitor.store import Alert, Floats, Rows

__all__ = ["ALERTS", "Column", "Tables", "Wide"]

ALERTS = ("step", "time", "rank", "level", "rule", "seen", "why", "advice")
"""The columns of the table of alerts."""


@dataclass(frozen=True)
class Column:
    """One number a row, ``(n,)`` each.

    Attributes:
        name: of the column.
        values: float64, NaN where it was measured as NaN.
        there: where something was recorded.
    """

    name: str
    values: Floats
    there: NDArray[np.bool_]


@dataclass
class Wide:
    """Gathers rows of all kinds of columns into one table by step."""

    parts: dict[str, list[tuple[Floats, Floats]]] = field(default_factory=dict)

    def add(self, rows: Rows) -> None:
        for place, name in enumerate(rows.names, start=1):
            self.parts.setdefault(name, []).append((rows.data[:, 0], rows.data[:, place]))

    def made(self) -> tuple[NDArray[np.int64], list[Column]]:
        """The steps, ascending, and the columns; the last value where a step has several of a name."""
        every = [steps for parts in self.parts.values() for steps, _ in parts]
        steps = np.unique(np.concatenate(every)).astype(np.int64) if every else np.zeros(0, dtype=np.int64)
        columns = []
        for name, parts in self.parts.items():
            values, there = np.full(len(steps), np.nan), np.zeros(len(steps), dtype=bool)
            at = np.searchsorted(steps, np.concatenate([some for some, _ in parts]))
            given = np.concatenate([some for _, some in parts])
            if name == "time":  # of the step, not of what was logged after it
                at, given = at[::-1], given[::-1]
            values[at], there[at] = given, True
            columns.append(Column("step (2)" if name == "step" else name, values, there))
        return steps, columns


class Tables(ABC):
    """Keeps a run in memory, and writes its tables when it ends: steps, layers, and alerts.

    A wide table is known when its last column is: while the run goes on, the recording is the file to read.

    Args:
        path: of the file; or of a folder, where it is called after the run.
        taken: what to do where one of the files is there: ``"number"``, ``"refuse"`` or ``"replace"``.

    Attributes:
        place: the file of the steps, once a run has begun.
    """

    suffix = ""

    def __init__(self, path: str | Path = ".", *, taken: Taken = "number") -> None:
        self._path, self._taken = Path(path), as_taken(taken)
        self.place: Path | None = None

    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None:
        path = self._path
        if path.suffix != self.suffix or path.is_dir():
            if path.suffix in (".csv", ".parquet") and not path.is_dir():
                raise ArgumentError(f"the file must end in {self.suffix}, got {str(path)!r}")
            path /= file_name(run) + self.suffix
        self.place = vacant(path, self._taken, self._is_taken, self.suffix)
        self._steps, self._layers, self._alerts = Wide(), Wide(), list[Alert]()

    def write(self, rows: Sequence[Rows], alerts: Sequence[Alert] = ()) -> None:
        for some in rows:
            (self._layers if some.kind == "layers" else self._steps).add(some)
        self._alerts += alerts

    def close(self, status: str = "finished") -> None:
        if self.place is None:
            return
        steps, layers, alerts = self._files(self.place)
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self._replace(steps, lambda path: self._table(path, *self._steps.made()))
        for path, full, table in (
            (layers, self._layers.parts, lambda path: self._table(path, *self._layers.made())),
            (alerts, self._alerts, lambda path: self._texts(path, self._alerts)),
        ):
            if full:
                self._replace(path, table)
            elif self._taken == "replace":  # of an export before this one
                path.unlink(missing_ok=True)

    def _files(self, path: Path) -> tuple[Path, Path, Path]:
        layers, alerts = (path.with_name(f"{path.stem}.{kind}{path.suffix}") for kind in ("layers", "alerts"))
        return path, layers, alerts

    def _is_taken(self, path: Path) -> bool:
        return any(map(Path.exists, self._files(path)))

    def _replace(self, path: Path, write: Any) -> None:
        """All of the file or nothing."""
        with replacing(path) as part:
            write(part)

    @abstractmethod
    def _table(self, path: Path, steps: NDArray[np.int64], columns: Sequence[Column]) -> None:
        """Write the numbers."""

    @abstractmethod
    def _texts(self, path: Path, alerts: Sequence[Alert]) -> None:
        """Write the alerts."""
