"""The file of a recording, as the reader sees it: its runs' frames and the names of their columns."""

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from clipwise.errors import StoreError
from clipwise.monitor.store._schema import open_database
from clipwise.monitor.store.records import Rows


class RecordingFile:
    """An opened recording; a context manager that closes it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._db = open_database(path)
        except sqlite3.Error as error:
            raise StoreError(f"{str(path)!r} cannot be read: {error}") from error
        self._layouts: dict[int, tuple[str, ...]] = {}
        self._seen = 0  # the last frame that was looked at
        self._last: dict[int, int] = {}  # by run: the largest number of a step
        # By run, what came in its order: kind, source, rank and layout, and the last such frame.
        self._columns: dict[int, dict[tuple[str, str, int, int], int]] = {}

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def version(self) -> int:
        """A number that changes when another process or thread has written to the file."""
        return int(self._all("PRAGMA data_version")[0][0])

    def rank(self, run: int, kind: str = "steps") -> int:
        """The lowest rank that has recorded something in a run; 0 if none has.

        Args:
            run: number of the run.
            kind: ``"steps"`` or ``"layers"``.
        """
        rows = self._all("SELECT min(rank) FROM frames WHERE run = ? AND kind = ?", run, kind)
        return int(rows[0][0] or 0)

    def _look(self) -> None:
        """At the frames that came since the last look: a long run has hundreds of thousands."""
        for run, kind, source, rank, layout, step, frame in self._all(
            "SELECT run, kind, source, rank, layout, max(last_step), max(id) FROM frames NOT INDEXED"
            " WHERE id > ? GROUP BY run, kind, source, rank, layout ORDER BY min(id)",
            self._seen,
        ):
            if not isinstance(step, int):
                raise self._damaged(f"the step {step!r}")
            self._seen = max(self._seen, frame)
            self._last[run] = max(self._last.get(run, 0), step)
            self._columns.setdefault(run, {})[kind, source, rank, layout] = frame

    def _known(self, run: int, kind: str, source: str, rank: int | None) -> list[str]:
        self._look()
        found = [
            layout
            for each, whose, by, layout in self._columns.get(run, ())
            if (each, whose) == (kind, source) and rank in (None, by)
        ]
        return list(dict.fromkeys(name for layout in found for name in self._names(layout)))

    def _lowest(self, run: int) -> int:
        """The lowest rank that has recorded anything of a run."""
        return int(self._all("SELECT min(rank) FROM frames WHERE run = ?", run)[0][0] or 0)

    def _frames(
        self, run: int, kind: str, source: str, rank: int | None, after: int
    ) -> Iterator[tuple[int, Rows]]:
        """Frames with their numbers, in the order in which they came."""
        rank = self.rank(run, kind) if rank is None else rank
        for frame, layout, data in self._rows(
            "SELECT id, layout, data FROM frames"
            " WHERE run = ? AND kind = ? AND rank = ? AND source = ? AND id > ? ORDER BY id",
            run,
            kind,
            rank,
            source,
            after,
        ):
            names = self._names(layout)
            yield frame, Rows(kind, names, self._table(data, names), source)

    def _names(self, layout: int) -> tuple[str, ...]:
        if layout not in self._layouts:
            rows = self._all("SELECT names FROM layouts WHERE id = ?", layout)
            try:
                names = json.loads(rows[0][0])
                if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                    raise TypeError(f"the names of columns are {names!r:.100}")
            except (IndexError, TypeError, ValueError, RecursionError) as error:
                raise self._damaged(error) from error
            self._layouts[layout] = tuple(names)
        return self._layouts[layout]

    def _table(self, data: bytes, columns: tuple[str, ...]) -> Any:
        width = 1 + len(columns)
        if not isinstance(data, bytes):
            raise self._damaged("a frame that is none")
        if len(data) % (8 * width):
            raise StoreError(
                f"{str(self.path)!r} is damaged: a frame of {len(data)} bytes for {width} columns"
            )
        return np.frombuffer(data, dtype="<f8").reshape(-1, width)

    def _damaged(self, what: object) -> StoreError:
        return StoreError(f"{str(self.path)!r} is damaged: {what}")

    def _rows(self, query: str, *values: object) -> Iterable[Any]:
        try:
            yield from self._db.execute(query, values)
        except sqlite3.Error as error:
            raise StoreError(f"{str(self.path)!r} cannot be read: {error}") from error

    def _all(self, query: str, *values: object) -> list[Any]:
        return list(self._rows(query, *values))
