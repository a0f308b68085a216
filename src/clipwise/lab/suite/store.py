"""The finished cells, and who is running which: one SQLite file that several processes and machines share.

A cell is claimed before it is run, with a lease that its process renews. A claim whose lease has run out, or
whose process is gone from this machine, is anyone's. The file has a rollback journal, not a write-ahead log,
since that works on folders that several machines share, wherever locks do.
"""

import json
import os
import platform
import socket
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from clipwise.errors import StoreError
from clipwise.lab.suite.cells import Cell, Key
from clipwise.lab.suite.task import Result

__all__ = ["Finished", "Lease", "SuiteStore"]

APPLICATION, VERSION = 0x636C6C62, 1
LEASE = 180.0
"""Seconds for which a claim holds unless it is renewed."""
RENEW = 30.0
WAITING = 60.0
"""Seconds for which a lock of another process is waited for."""

TABLE = """
CREATE TABLE cells (
    task TEXT NOT NULL, method TEXT NOT NULL, seed INTEGER NOT NULL, budget TEXT NOT NULL,
    setting TEXT NOT NULL,                   -- a hash of what the numbers depend on
    state TEXT NOT NULL,                     -- 'running', 'done' or 'failed'
    owner TEXT, machine TEXT, pid INTEGER,   -- of the process that runs it
    expires REAL,                            -- when its claim does
    finished REAL,
    result TEXT,                             -- JSON, of one that is done
    environment TEXT,                        -- JSON: versions and processor
    error TEXT,                              -- a sentence, of one that failed
    PRIMARY KEY (task, method, seed, budget, setting)
)
"""
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
    """The store in a file, made where there is none and ``write``.

    Raises:
        StoreError: it is no such store, or cannot be read or written; with what to do.
    """

    def __init__(self, path: Path, *, write: bool = True) -> None:
        self.path, self.owner = path, uuid.uuid4().hex
        if not write and not path.is_file():
            raise StoreError(
                f"there is no store {str(path)!r}: run clipwise lab run first, or give its folder"
            )
        self._mine = (self.owner, _machine(), os.getpid())
        with self._explained():
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}",
                uri=True,
                timeout=WAITING,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                self._check(write)
            except BaseException:
                self._db.close()
                raise
        self._lock = threading.Lock()  # the thread that renews shares the connection

    def _check(self, write: bool) -> None:
        if write:
            self._db.execute("BEGIN IMMEDIATE")
        try:
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if application == APPLICATION and version != VERSION:
                raise StoreError(
                    f"the store {str(self.path)!r} is of another version of clipwise ({version}, this one has"
                    f" {VERSION}): name another folder with --out"
                )
            if application != APPLICATION:
                if tables or application or not write:
                    raise StoreError(
                        f"{str(self.path)!r} is no store of clipwise lab: name another folder with --out, or"
                        " move this file away"
                    )
                self._db.execute(TABLE)
                self._db.execute(f"PRAGMA application_id = {APPLICATION}")
                self._db.execute(f"PRAGMA user_version = {VERSION}")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        if write:
            self._db.execute("COMMIT")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """SQLite's errors as one sentence that says what to do."""
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            place = repr(str(self.path))
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                said = (
                    f"{place} is no store of clipwise lab, or it is damaged ({error}): move it away, or name"
                )
                raise StoreError(f"{said} another folder with --out") from error
            if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
                raise StoreError(
                    f"the store {place} cannot be written ({error}): name a folder that can with --out"
                ) from error
            raise StoreError(f"the store {place} cannot be used just now ({error}): try again") from error

    def _transaction(self, act: Callable[[], T]) -> T:
        with self._lock, self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                found = act()
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            return found

    def claim(self, wanted: Sequence[Cell], *, tried: Sequence[Key] = ()) -> Cell | None:
        """The first cell that is neither done nor being run, claimed by this process; None if there is none.

        Args:
            wanted: in the order in which they are run.
            tried: those that failed in this call, which are not tried again.
        """

        def act() -> Cell | None:
            now, states = time.time(), self._states()
            for cell in wanted:
                key = cell.key
                if key in tried or not self._is_free(states.get(key), now):
                    continue
                self._db.execute(
                    "INSERT OR REPLACE INTO cells (task, method, seed, budget, setting, state, owner,"
                    " machine, pid, expires) VALUES (?, ?, ?, ?, ?, 'running', ?, ?, ?, ?)",
                    (*astuple(key), *self._mine, now + LEASE),
                )
                return cell
            return None

        return self._transaction(act)

    def _states(self) -> dict[Key, tuple[str, str, int, float]]:
        rows = self._db.execute(
            "SELECT task, method, seed, budget, setting, state, machine, pid, expires FROM cells"
        )
        return {Key(*row[:5]): row[5:] for row in rows}

    @staticmethod
    def _is_free(row: tuple[str, str, int, float] | None, now: float) -> bool:
        if row is None:
            return True
        state, machine, pid, expires = row
        if state != "running":
            return state == "failed"
        return now > expires or (machine == _machine() and not _is_alive(pid))

    def renew(self, cell: Cell) -> None:
        """Keep the claim for another while."""
        self._update(cell, "expires = ?", time.time() + LEASE)

    def release(self, cell: Cell) -> None:
        """Give a claim back: the cell was not finished."""
        self._transaction(
            lambda: self._db.execute(
                f"DELETE FROM cells WHERE {KEY} AND owner = ?", (*astuple(cell.key), self.owner)
            )
        )

    def finish(self, cell: Cell, result: Result, environment: Mapping[str, str]) -> None:
        """Keep the result of a claimed cell, unless another process has taken the cell over meanwhile."""
        content = json.dumps(result.to_dict()), json.dumps(dict(environment))
        self._update(cell, "state = 'done', finished = ?, result = ?, environment = ?", time.time(), *content)

    def fail(self, cell: Cell, error: str, environment: Mapping[str, str]) -> None:
        """Keep why a claimed cell gave no result; a later call tries it again."""
        self._update(
            cell,
            "state = 'failed', finished = ?, error = ?, environment = ?",
            time.time(),
            error,
            json.dumps(dict(environment)),
        )

    def _update(self, cell: Cell, change: str, *values: Any) -> None:
        self._transaction(
            lambda: self._db.execute(
                f"UPDATE cells SET {change} WHERE {KEY} AND owner = ? AND state = 'running'",
                (*values, *astuple(cell.key), self.owner),
            )
        )

    def finished(self) -> dict[Key, Finished]:
        """All cells that are done or have failed."""
        with self._lock, self._explained():
            rows = self._db.execute(
                "SELECT task, method, seed, budget, setting, result, error, environment FROM cells"
                " WHERE state IN ('done', 'failed') ORDER BY finished"
            ).fetchall()
        try:
            return {Key(*row[:5]): _finished(*row) for row in rows}
        except (ValueError, TypeError, KeyError) as error:
            raise StoreError(
                f"the store {str(self.path)!r} is damaged ({error}): move it away, or name another folder"
                " with --out"
            ) from error

    def running(self) -> dict[Key, str]:
        """The cells that are being run, each with its process."""
        with self._lock, self._explained():
            states, now = self._states(), time.time()
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


class Lease:
    """Renews the claim of a cell while it is entered; a cell that is left by an error is given back."""

    def __init__(self, store: SuiteStore, cell: Cell) -> None:
        self._store, self._cell, self._over = store, cell, threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def _renew(self) -> None:
        while not self._over.wait(RENEW):
            # A store that is busy just now may not be the next time; the lease is long enough for both.
            try:
                self._store.renew(self._cell)
            except StoreError:
                continue

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is not None:
            self._store.release(self._cell)


def _machine() -> str:
    """What process numbers are counted in: a host and, where it has containers, the part of it seen here."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = platform.system()
    return f"{socket.gethostname()} {space}"


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine is there; where that cannot be asked, its lease decides."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
