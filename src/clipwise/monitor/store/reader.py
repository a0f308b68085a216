"""Reading a recording, also while it is written."""

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from clipwise.errors import StoreError, did_you_mean
from clipwise.monitor.store._schema import open_database
from clipwise.monitor.store._status import run_of
from clipwise.monitor.store.records import Alert, Layers, Run, Series

__all__ = ["Found", "FoundLayers", "Store"]


class Store:
    """A recording, to be read. Also a context manager that closes it. For one thread at a time.

    Args:
        path: of the file.

    Raises:
        StoreError: there is no such file, it is none of clipwise's, damaged, or of a newer version. Every
            method raises it too, if the file turns out to be damaged later.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._db = open_database(path)
        except sqlite3.Error as error:
            raise StoreError(f"{str(path)!r} cannot be read: {error}") from error
        self._layouts: dict[int, tuple[str, ...]] = {}
        self._seen = 0  # the last frame that was looked at
        self._last: dict[int, int] = {}  # by run: the largest number of a step
        self._columns: dict[int, dict[int, None]] = {}  # by run: layouts of its steps, as they came

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Runs.

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        rows = self._all("SELECT id, name, started, command, clip, facts FROM runs ORDER BY id DESC")
        writers: dict[int, list[Any]] = {}
        for run, *rest in self._all("SELECT run, rank, pid, host, seen, status, note FROM writers"):
            writers.setdefault(run, []).append(rest)
        self._look()
        return [run_of(row, writers.get(row[0], []), self._last.get(row[0], 0)) for row in rows]

    def run(self, which: int | str | None = None) -> Run:
        """One run: by its number, by its name (the newest of that name), or the newest.

        Raises:
            StoreError: there is none.
        """
        runs = self.runs()
        if not runs:
            raise StoreError(f"{str(self.path)!r} has no run yet")
        if which is None:
            return runs[0]
        text = str(which)
        found = next((run for run in runs if run.name == which), None) or next(
            (run for run in runs if str(run.id) == text), None
        )
        if found is None:
            names = dict.fromkeys([*(run.name for run in runs), *(str(run.id) for run in runs)])
            raise StoreError(f"no run {text!r} in {str(self.path)!r}. {did_you_mean(text, names)}")
        return found

    # Steps.

    def names(self, run: int) -> list[str]:
        """What was recorded in each step of a run: the names of its series, in the order of their coming."""
        self._look()
        layouts = self._columns.get(run, {})
        return list(dict.fromkeys(name for layout in layouts for name in self._names(layout)))

    def rank(self, run: int, kind: str = "steps") -> int:
        """The lowest rank that has recorded something of a run; 0 where none has.

        Args:
            run: its number.
            kind: ``"steps"`` or ``"layers"``.
        """
        rows = self._all("SELECT min(rank) FROM frames WHERE run = ? AND kind = ?", run, kind)
        return int(rows[0][0] or 0)

    def series(self, run: int, names: Iterable[str], rank: int | None = None, after: int = 0) -> "Found":
        """Some series of a run.

        Args:
            run: its number.
            names: of the series; those that it does not have are left out.
            rank: whose; None: of the process with the lowest rank that recorded something.
            after: only what was written after this frame (`Found.last` of an earlier call).
        """
        wanted = list(dict.fromkeys(names))
        rank = self.rank(run) if rank is None else rank
        steps: dict[str, list[Any]] = {name: [] for name in wanted}
        values: dict[str, list[Any]] = {name: [] for name in wanted}
        last = after
        for frame, layout, data in self._rows(
            "SELECT id, layout, data FROM frames"
            " WHERE run = ? AND kind = 'steps' AND rank = ? AND id > ? ORDER BY id",
            run,
            rank,
            after,
        ):
            columns = self._names(layout)
            table = self._table(data, columns)
            last = frame
            for name in wanted:
                if name in columns:
                    steps[name].append(table[:, 0])
                    values[name].append(table[:, 1 + columns.index(name)])
        there = {name: _in_order(steps[name], values[name]) for name in wanted if steps[name]}
        return Found(there, last)

    def layers(self, run: int, rank: int | None = None, after: int = 0) -> "FoundLayers":
        """The norms of the parameters' gradients over a run.

        Args:
            run, rank: as for `series`.
            after: only what was written after this frame (`FoundLayers.last` of an earlier call).
        """
        rank = self.rank(run, "layers") if rank is None else rank
        rows = self._all(
            "SELECT layout, data, id FROM frames"
            " WHERE run = ? AND kind = 'layers' AND rank = ? AND id > ? ORDER BY id",
            run,
            rank,
            after,
        )
        names = tuple(dict.fromkeys(name for layout, *_ in rows for name in self._names(layout)))
        place = {name: i for i, name in enumerate(names)}
        steps, norms, there = [], [], []
        for layout, data, _ in rows:
            columns = self._names(layout)
            table = self._table(data, columns)
            whole = np.full((len(table), len(names)), np.nan)
            here = np.zeros(whole.shape, dtype=bool)
            where = [place[name] for name in columns]
            whole[:, where], here[:, where] = table[:, 1:], True
            steps.append(table[:, 0])
            norms.append(whole)
            there.append(here)
        if not steps:
            nothing = np.zeros((0, 0))
            return FoundLayers(np.zeros(0, dtype=np.int64), (), nothing, nothing.astype(bool), after)
        numbers = np.concatenate(steps).astype(np.int64)
        order = np.argsort(numbers, kind="stable")
        data, absent = np.concatenate(norms)[order], ~np.concatenate(there)[order]
        return FoundLayers(numbers[order], names, data, absent, rows[-1][2])

    # Alerts, and news.

    def alerts(self, run: int) -> list[Alert]:
        """The alerts of a run, in the order in which they were raised."""
        columns = "rule, level, step, seen, why, advice, rank, time"
        if any(column[1] == "source" for column in self._all("PRAGMA table_info(alerts)")):
            columns += ", source"  # in a file from before there was one all have none
        rows = self._all(f"SELECT {columns} FROM alerts WHERE run = ? ORDER BY id", run)
        return [Alert(*row) for row in rows]

    def version(self) -> int:
        """A number that changes when another process or thread has written into the file."""
        return int(self._all("PRAGMA data_version")[0][0])

    # Inside.

    def _look(self) -> None:
        """At the frames that came since the last look: a long run has hundreds of thousands."""
        for run, kind, layout, step, frame in self._all(
            "SELECT run, kind, layout, max(last_step), max(id) FROM frames NOT INDEXED WHERE id > ?"
            " GROUP BY run, kind, layout ORDER BY min(id)",
            self._seen,
        ):
            self._seen = max(self._seen, frame)
            self._last[run] = max(self._last.get(run, 0), step)
            if kind == "steps":
                self._columns.setdefault(run, {}).setdefault(layout)

    def _names(self, layout: int) -> tuple[str, ...]:
        if layout not in self._layouts:
            ((text,),) = self._all("SELECT names FROM layouts WHERE id = ?", layout)
            self._layouts[layout] = tuple(json.loads(text))
        return self._layouts[layout]

    def _table(self, data: bytes, columns: tuple[str, ...]) -> Any:
        width = 1 + len(columns)
        if len(data) % (8 * width):
            raise StoreError(
                f"{str(self.path)!r} is damaged: a frame of {len(data)} bytes for {width} columns"
            )
        return np.frombuffer(data, dtype="<f8").reshape(-1, width)

    def _rows(self, query: str, *values: object) -> Iterable[Any]:
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as error:
            raise StoreError(f"{str(self.path)!r} cannot be read: {error}") from error

    def _all(self, query: str, *values: object) -> list[Any]:
        return list(self._rows(query, *values))


class Found(dict[str, Series]):
    """Series by name.

    Attributes:
        last: the last frame that was read, for the next call.
    """

    def __init__(self, series: Mapping[str, Series], last: int) -> None:
        super().__init__(series)
        self.last = last


@dataclass(frozen=True)
class FoundLayers(Layers):
    """Norms of layers.

    Attributes:
        last: the last frame that was read, for the next call.
    """

    last: int


def _in_order(steps: list[Any], values: list[Any]) -> Series:
    """Rows of other columns, such as those of steps that were left out, lie in frames of their own."""
    found = Series(np.concatenate(steps).astype(np.int64), np.concatenate(values))
    if (found.steps[1:] >= found.steps[:-1]).all():
        return found
    order = np.argsort(found.steps, kind="stable")
    return Series(found.steps[order], found.values[order])
