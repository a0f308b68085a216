"""Wide tables: one row per step, one column a name. What CSV and Parquet share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from clipwise.errors import ArgumentError
from clipwise.files import replacing
from clipwise.monitor.exporters._base import Option, Taken, Tool, as_taken, file_name, vacant
from clipwise.monitor.store import Alert, Moment, steps_of

ALERTS = ("step", "time", "rank", "level", "rule", "seen", "why", "advice")
"""The columns of the table of alerts."""


class Table(Protocol):
    """A table that is being written."""

    def add(self, step: int, cells: Sequence[float | None]) -> None:
        """One row; None where nothing was recorded."""

    def close(self) -> None:
        """The last row was added."""


class Tables(Tool):
    """Writes a run's tables out of its recording: steps, layers, and alerts.

    A wide table is known when its last column is, so a live run is written when it ends. Until then the
    recording is the file to read.

    Args:
        path: of the file; or of a folder, where it is called after the run.
        taken: what to do where one of the files is there: ``"number"``, ``"refuse"`` or ``"replace"``.

    Attributes:
        place: the file of the steps, once a run has begun.
    """

    suffix = ""
    options = MappingProxyType(
        {
            "--out": Option("path", "the file, or a folder for it [this folder]"),
            "--force": Option("taken", "replace the files", ("refuse", "replace")),
        }
    )

    def __init__(self, path: str | Path = ".", *, taken: Taken = "number") -> None:
        self._path, self._taken = Path(path), as_taken(taken)
        self.place: Path | None = None
        self._writing: ExitStack | None = None

    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None:
        path = self._path
        if path.suffix != self.suffix or path.is_dir():
            if path.suffix in (".csv", ".parquet") and not path.is_dir():
                raise ArgumentError(f"the file must end in {self.suffix}, got {str(path)!r}")
            path /= file_name(run) + self.suffix
        self.place = vacant(path, self._taken, self._is_taken, self.suffix)
        self._steps: Table | None = None
        self._layers: Table | None = None
        self._alerts = list[Alert]()

    def expect(self, names: Sequence[str], parameters: Sequence[str]) -> None:
        """Which columns there will be."""
        assert self.place is not None
        self.place.parent.mkdir(parents=True, exist_ok=True)
        self._writing = ExitStack()
        steps, layers, _ = self._files(self.place)
        self._names, self._parameters = tuple(names), tuple(parameters)
        named = ["step (2)" if name == "step" else name for name in names]
        self._steps = self._open(self._writing.enter_context(replacing(steps)), named)
        if parameters:
            self._layers = self._open(self._writing.enter_context(replacing(layers)), self._parameters)

    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert] = ()) -> None:
        for one in steps_of(moments):
            values = {**one.values, "time": one.time} if one.time else one.values
            if values and self._steps is not None:
                self._steps.add(one.step, [values.get(name) for name in self._names])
            if one.layers and self._layers is not None:
                self._layers.add(one.step, [one.layers.get(name) for name in self._parameters])
        self._alerts += alerts

    def close(self, status: str = "finished") -> None:
        if self._writing is None or self.place is None:
            return
        writing, self._writing = self._writing, None
        _, layers, alerts = self._files(self.place)
        with writing:  # each file as a whole, or it stays what it was
            for table in filter(None, (self._steps, self._layers)):
                table.close()
            if self._alerts:
                self._texts(writing.enter_context(replacing(alerts)), self._alerts)
        if self._taken == "replace":  # of an export before this one
            for path, written in ((layers, self._layers), (alerts, self._alerts)):
                if not written:
                    path.unlink(missing_ok=True)

    def abandon(self) -> None:
        """The export has failed: the files stay what they were."""
        writing, self._writing = self._writing, None
        if writing is not None:
            with suppress(_Abandoned), writing:
                for table in filter(None, (self._steps, self._layers)):
                    with suppress(Exception):  # it is the first failure that is told
                        table.close()
                raise _Abandoned

    def _files(self, path: Path) -> tuple[Path, Path, Path]:
        layers, alerts = (path.with_name(f"{path.stem}.{kind}{path.suffix}") for kind in ("layers", "alerts"))
        return path, layers, alerts

    def _is_taken(self, path: Path) -> bool:
        return any(map(Path.exists, self._files(path)))

    @abstractmethod
    def _open(self, path: Path, names: Sequence[str]) -> Table:
        """A table of numbers, its first column the step."""

    @abstractmethod
    def _texts(self, path: Path, alerts: Sequence[Alert]) -> None:
        """Write the alerts."""


class _Abandoned(Exception):
    """Nothing of what was begun is to be kept."""
