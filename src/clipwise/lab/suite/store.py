"""The finished cells, and who is running which: one database that several processes and machines share.

A cell is claimed before it is run, with a lease that its process renews. A claim whose lease has run out, or
whose process is gone from this machine, is anyone's.
"""

import json
import os
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from clipwise.errors import StoreError
from clipwise.lab.suite.cells import Cell, Key
from clipwise.lab.suite.database import open_database
from clipwise.lab.suite.lease import LEASE, machine
from clipwise.lab.suite.task import Result
from clipwise.processes import is_alive

__all__ = ["Finished", "SuiteStore"]

KEY = "task = ? AND method = ? AND seed = ? AND budget = ? AND setting = ?"

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """A cell that is done, or has failed.

    Attributes:
        key: which.
        result: None where it failed.
        error: why it failed, empty where it did not.
        environment: versions and processor.
    """

    key: Key
    result: Result | None
    error: str
    environment: Mapping[str, str]


class SuiteStore:
    """The store in a file, or at the address of a PostgreSQL server, made where there is none and ``write``.

    Raises:
        StoreError: it is no such store, or cannot be read or written; with what to do.
    """

    def __init__(self, place: Path | str, *, write: bool = True) -> None:
        self.owner = uuid.uuid4().hex
        self._mine = (self.owner, machine(), os.getpid())
        self._db = open_database(place, write=write)
        self.place = self._db.place
        self._lock = threading.Lock()  # the thread that renews shares the connection

    def _transaction(self, act: Callable[[], T]) -> T:
        with self._lock, self._db.transaction():
            return act()

    def claim(self, wanted: Sequence[Cell], *, tried: Sequence[Key] = ()) -> Cell | None:
        """The first cell that is neither done nor being run, claimed by this process; None if there is none.

        Args:
            wanted: in the order in which they are run.
            tried: those that failed in this call, which are not tried again.
        """

        def act() -> Cell | None:
            now, states = self._db.now(), self._states()
            for cell in wanted:
                key = cell.key
                if key in tried or not self._is_free(states.get(key), now):
                    continue
                self._db.rows(
                    f"DELETE FROM cells WHERE {KEY}", astuple(key)
                )  # of one that failed, or is gone
                self._db.rows(
                    "INSERT INTO cells (task, method, seed, budget, setting, state, owner, machine, pid,"
                    " expires) VALUES (?, ?, ?, ?, ?, 'running', ?, ?, ?, ?)",
                    (*astuple(key), *self._mine, now + LEASE),
                )
                return cell
            return None

        return self._transaction(act)

    def _states(self) -> dict[Key, tuple[str, str, int, float]]:
        rows = self._db.rows(
            "SELECT task, method, seed, budget, setting, state, machine, pid, expires FROM cells"
        )
        return {Key(*row[:5]): row[5:] for row in rows}

    @staticmethod
    def _is_free(row: tuple[str, str, int, float] | None, now: float) -> bool:
        if row is None:
            return True
        state, where, pid, expires = row
        if state != "running":
            return state == "failed"
        return now > expires or (where == machine() and not is_alive(pid))

    def renew(self, cell: Cell) -> None:
        """Keep the claim for another while."""
        self._update(cell, "expires = ?", LEASE)

    def release(self, cell: Cell) -> None:
        """Give a claim back: the cell was not finished."""
        self._transaction(
            lambda: self._db.rows(
                f"DELETE FROM cells WHERE {KEY} AND owner = ?", (*astuple(cell.key), self.owner)
            )
        )

    def finish(self, cell: Cell, result: Result, environment: Mapping[str, str]) -> None:
        """Keep the result of a claimed cell, unless another process has taken the cell over meanwhile."""
        content = json.dumps(result.to_dict()), json.dumps(dict(environment))
        self._update(cell, "state = 'done', finished = ?, result = ?, environment = ?", 0.0, *content)

    def fail(self, cell: Cell, error: str, environment: Mapping[str, str]) -> None:
        """Keep why a claimed cell gave no result; a later call tries it again."""
        self._update(
            cell,
            "state = 'failed', finished = ?, error = ?, environment = ?",
            0.0,
            error,
            json.dumps(dict(environment)),
        )

    def _update(self, cell: Cell, change: str, later: float, *values: Any) -> None:
        """Change the claim of a cell that is still this process's; the first value is a moment from now."""
        self._transaction(
            lambda: self._db.rows(
                f"UPDATE cells SET {change} WHERE {KEY} AND owner = ? AND state = 'running'",
                (self._db.now() + later, *values, *astuple(cell.key), self.owner),
            )
        )

    def finished(self) -> dict[Key, Finished]:
        """All cells that are done or have failed."""
        with self._lock:
            rows = self._db.rows(
                "SELECT task, method, seed, budget, setting, result, error, environment FROM cells"
                " WHERE state IN ('done', 'failed') ORDER BY finished"
            )
        try:
            return {Key(*row[:5]): _finished(*row) for row in rows}
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(f"the store {self.place!r} is damaged ({error}): {self._db.remedy}") from error

    def running(self) -> dict[Key, str]:
        """The cells that are being run, each with its process."""
        with self._lock:
            states, now = self._states(), self._db.now()
            return {
                key: f"{row[1]}/{row[2]}"
                for key, row in states.items()
                if row[0] == "running" and not self._is_free(row, now)
            }

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "SuiteStore":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _finished(*row: Any) -> Finished:
    result = None if row[5] is None else Result.from_dict(json.loads(row[5]))
    return Finished(Key(*row[:5]), result, row[6] or "", json.loads(row[7] or "{}"))
