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
from clipwise.lab.suite.lease import LEASE
from clipwise.lab.suite.task import Result
from clipwise.processes import is_alive, machine

__all__ = ["Finished", "SuiteStore"]

KEY = "task = ? AND method = ? AND seed = ? AND budget = ? AND setting = ?"

T = TypeVar("T")


@dataclass(frozen=True)
class Finished:
    """A cell that is finished or has failed.

    Attributes:
        key: key of the cell.
        result: its result; None if it failed.
        error: why it failed; empty if it did not.
        environment: versions and processor.
    """

    key: Key
    result: Result | None
    error: str
    environment: Mapping[str, str]


class SuiteStore:
    """A store in a file, or on a PostgreSQL server. With ``write`` it is created if it does not exist.

    Raises:
        StoreError: it is not such a store, or it cannot be read or written.
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
        """Claim the first cell that is neither finished nor running, for this process.

        Args:
            wanted: the requested cells, in the order in which they are run.
            tried: cells that failed in this call; they are not tried again.

        Returns:
            The cell; None if there is no such cell.
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
        """Renew the lease of a claim."""
        self._update(cell, "expires = ?", LEASE)

    def release(self, cell: Cell) -> None:
        """Release the claim of a cell that was not finished."""
        self._transaction(
            lambda: self._db.rows(
                f"DELETE FROM cells WHERE {KEY} AND owner = ?", (*astuple(cell.key), self.owner)
            )
        )

    def finish(self, cell: Cell, result: Result, environment: Mapping[str, str]) -> None:
        """Store the result of a claimed cell, unless another process has taken it over."""
        content = json.dumps(result.to_dict()), json.dumps(dict(environment))
        self._update(cell, "state = 'done', finished = ?, result = ?, environment = ?", 0.0, *content)

    def fail(self, cell: Cell, error: str, environment: Mapping[str, str]) -> None:
        """Store why a claimed cell failed; a later call tries it again."""
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
        """All cells that are finished or have failed."""
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
        """The running cells, each with its process."""
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
