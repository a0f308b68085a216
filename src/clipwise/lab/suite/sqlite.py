"""The store in a file of SQLite: its table, whether a file is one, and SQLite's errors in one sentence.

The file has a rollback journal, not a write-ahead log, since that works on folders that several machines
share, wherever locks do.
"""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clipwise.errors import StoreError

__all__ = ["TABLE", "SQLite"]

APPLICATION, VERSION = 0x636C6C62, 1
WAITING = 60.0
"""Seconds for which a lock of another process is waited for."""

TABLE = """
CREATE TABLE IF NOT EXISTS cells (
    task TEXT NOT NULL, method TEXT NOT NULL, seed INTEGER NOT NULL, budget TEXT NOT NULL,
    setting TEXT NOT NULL,                   -- a hash of what the numbers depend on
    state TEXT NOT NULL,                     -- 'running', 'done' or 'failed'
    owner TEXT, machine TEXT, pid INTEGER,   -- of the process that runs it
    expires DOUBLE PRECISION,                -- when its claim does
    finished DOUBLE PRECISION,
    result TEXT,                             -- JSON, of one that is done
    environment TEXT,                        -- JSON: versions and processor
    error TEXT,                              -- a sentence, of one that failed
    PRIMARY KEY (task, method, seed, budget, setting)
)
"""


class SQLite:
    """A database in an SQLite file. Each process uses the clock of its machine.

    Args:
        path: the file.
        write: create the file if it does not exist.

    Raises:
        StoreError: it is not such a store, or it cannot be read or written.
    """

    remedy = "move it away, or choose another folder with --out"

    def __init__(self, path: Path, *, write: bool) -> None:
        self.place, self._path = str(path), path
        self._db = _opened(path, write=write)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.rows("BEGIN IMMEDIATE")
        try:
            yield
            self.rows("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with _explained(self._path):
            return self._db.execute(statement, values).fetchall()

    def now(self) -> float:
        return time.time()

    def close(self) -> None:
        self._db.close()


def _opened(path: Path, *, write: bool) -> sqlite3.Connection:
    """Connect to a store; several threads may use the connection in turn.

    With ``write`` the store is created if it does not exist.

    Raises:
        StoreError: it is not such a store, or it cannot be read or written.
    """
    if not write and not path.is_file():
        raise StoreError(f"there is no store {str(path)!r}: run clipwise lab run first, or give its folder")
    with _explained(path):
        db = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={'rwc' if write else 'ro'}",
            uri=True,
            timeout=WAITING,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            _check(db, path, write)
        except BaseException:
            db.close()
            raise
        return db


def _check(db: sqlite3.Connection, path: Path, write: bool) -> None:
    if write:
        db.execute("BEGIN IMMEDIATE")
    try:
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == APPLICATION and version != VERSION:
            raise StoreError(
                f"the store {str(path)!r} was made by another version of clipwise (version {version}, this"
                f" one reads {VERSION}): choose another folder with --out"
            )
        if application != APPLICATION:
            if tables or application or not write:
                raise StoreError(
                    f"{str(path)!r} is not a store of clipwise lab: choose another folder with --out, or"
                    " move this file away"
                )
            db.execute(TABLE)
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    if write:
        db.execute("COMMIT")


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as one sentence that says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        place = repr(str(path))
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise StoreError(
                f"{place} is not a store of clipwise lab, or is damaged ({error}): move it away, or"
                " choose another folder with --out"
            ) from error
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
            raise StoreError(
                f"the store {place} cannot be written ({error}): choose another folder with --out"
            ) from error
        raise StoreError(f"the store {place} is not available at the moment ({error}): try again") from error
