"""The tables of a recording, and their version."""

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from clipwise.errors import StoreError
from clipwise.stack import warn

APPLICATION = 0x636C6970
"""What SQLite keeps in the file's header, so that a file of somebody else's is told apart."""

TABLES = """
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    uid TEXT NOT NULL UNIQUE,                -- the same for all processes of a run
    name TEXT NOT NULL,
    started REAL NOT NULL,
    command TEXT,
    clip TEXT,
    facts TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE writers (                       -- one a process
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    rank INTEGER NOT NULL,
    pid INTEGER NOT NULL,
    host TEXT NOT NULL,                      -- of `clipwise.processes.machine`
    seen REAL NOT NULL,
    status TEXT NOT NULL,
    note TEXT NOT NULL DEFAULT ''
);
CREATE TABLE layouts (
    id INTEGER PRIMARY KEY,
    names TEXT NOT NULL UNIQUE               -- a JSON list: what the columns of a frame are
);
CREATE TABLE frames (                        -- some rows, in the order in which they came
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    rank INTEGER NOT NULL,
    kind TEXT NOT NULL,                      -- 'steps' or 'layers'
    source TEXT NOT NULL,                    -- whose values these are, '' where there is one clipper
    layout INTEGER NOT NULL REFERENCES layouts,
    first_step INTEGER NOT NULL,
    last_step INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    nonfinite INTEGER NOT NULL,              -- how many of the numbers are NaN or Inf
    data BLOB NOT NULL                       -- float64, little-endian, row after row
);
CREATE INDEX frames_of_run ON frames (run, kind, rank, source, id);
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs,
    rank INTEGER NOT NULL,
    step INTEGER NOT NULL,
    time REAL NOT NULL,
    rule TEXT NOT NULL,
    level TEXT NOT NULL,
    seen TEXT NOT NULL,
    why TEXT NOT NULL,
    advice TEXT NOT NULL,
    source TEXT NOT NULL
);
CREATE INDEX alerts_of_run ON alerts (run, id);
"""

VERSION = 2

ODD = (
    "SELECT iif(type = 'table', 'the virtual table', 'the ' || type), name FROM sqlite_master"
    " WHERE type IN ('view', 'trigger') OR (type = 'table' AND sql LIKE 'CREATE VIRTUAL%')"
)
"""What would be computed when it is read or written, however long that takes: only tables are read."""

WAITING = 5.0
"""Seconds for which SQLite waits for a lock."""

OPENING, ENDING = 2.0, 10.0
"""Seconds that are waited for other processes, beyond SQLite's own; a run that goes on can try later."""

BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)
"""What SQLite says where another process is in the way."""

T = TypeVar("T")


def open_database(path: str | os.PathLike[str], *, write: bool = False) -> sqlite3.Connection:
    """Open a recording, or begin one where there is no file and ``write``.

    The connection may be used by one thread at a time, and commits only what is asked for by ``BEGIN``.
    Where other processes are just making the file, this waits for them.

    Raises:
        StoreError: there is no such file, it is none of clipwise's, damaged, or of another version.
        sqlite3.Error, OSError: it cannot be opened or written just now.
    """
    path = Path(path)
    if not write and not path.is_file():
        raise StoreError(f"there is no recording {str(path)!r}" + (": it is a folder" * path.is_dir()))
    # Percent signs and question marks of a name would mean something in a URI.
    name = path.absolute().as_uri()
    mode = "rwc" if write else "rw" if os.access(path, os.W_OK) else "ro"
    if not write and is_settled(path):
        mode = "ro&immutable=1"
    connection = sqlite3.connect(
        f"{name}?mode={mode}", uri=True, timeout=WAITING, isolation_level=None, check_same_thread=False
    )
    try:
        if write:
            patiently(lambda: _check(connection, path, write), OPENING)
        else:
            _check(connection, path, write)
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise StoreError(f"{str(path)!r} is not a recording, or is damaged: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def patiently(act: Callable[[], T], seconds: float) -> T:
    """The result of something, tried again as long as other processes have the file locked.

    SQLite waits by itself for a lock, but not for the moment in which another process turns the write-ahead
    log on, and no longer than its timeout.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return act()
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > end:
                raise
        time.sleep(0.05)


def is_busy(error: Exception) -> bool:
    """Whether it is only that another process has the file locked."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in BUSY


def is_settled(path: str | os.PathLike[str]) -> bool:
    """Whether nobody writes a file, and readers have no place for what they share with writers.

    SQLite wants to make that beside a file with a write-ahead log, unless it is told that nothing changes.
    """
    path = Path(path)
    return not os.access(path.absolute().parent, os.W_OK) and not Path(f"{path}-wal").exists()


def _check(connection: sqlite3.Connection, path: Path, write: bool) -> None:
    application, version, tables = _seen(connection)
    ours = application == APPLICATION
    if ours:
        _check_version(version, path)
        if odd := connection.execute(ODD).fetchone():
            raise StoreError(f"{str(path)!r} is not a valid recording: it holds {odd[0]} {odd[1]!r}")
    elif application or tables:
        raise StoreError(f"{str(path)!r} is not a recording of clipwise")
    elif not write:
        raise StoreError(f"{str(path)!r} is empty: nothing has been recorded yet")
    if write:
        _use_wal(connection, path)
    if not ours:
        _make_tables(connection)
    connection.execute("PRAGMA synchronous = NORMAL")


def _seen(connection: sqlite3.Connection) -> tuple[int, int, int]:
    """Application, version and number of tables, all of one moment: another process may be making them."""
    connection.execute("BEGIN")
    try:
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return _number(connection, "application_id"), _number(connection, "user_version"), int(tables)
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _check_version(version: int, path: Path) -> None:
    if version != VERSION:
        newer = version > VERSION
        raise StoreError(
            f"{str(path)!r} was written by {'a newer' if newer else 'an older'} clipwise (version {version}"
            f" of the file, this one reads {VERSION}): "
            + ("upgrade clipwise, or choose another file" if newer else "record into another file")
        )


def _use_wal(connection: sqlite3.Connection, path: Path) -> None:
    """Let readers read while somebody writes; some file systems cannot, and SQLite says so or raises."""
    try:
        mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "readonly" in str(error) or "full" in str(error):
            raise
        mode = str(error)
    if mode == "wal":
        return
    back = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
    warn(
        f"{str(path)!r}: this file system does not support SQLite's write-ahead log ({mode}); the"
        f" journal is {back!r}, so that readers and writers wait for each other"
    )


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _number(connection, "user_version") == 0:  # another process may have been faster
            for statement in TABLES.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
