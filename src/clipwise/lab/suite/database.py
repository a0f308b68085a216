"""What the store asks of a database, and which one a place names: a file of SQLite, or PostgreSQL."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from clipwise.errors import ArgumentError
from clipwise.lab.suite.postgres import Postgres, is_postgres, without_password
from clipwise.lab.suite.sqlite import SQLite

__all__ = ["Database", "open_database", "where"]


class Database(Protocol):
    """A database with the table ``cells``. Statements use ``?`` for values and SQL that both engines support.

    Attributes:
        place: its location for messages, without a password.
        remedy: advice in error messages on how to use another one.
    """

    place: str
    remedy: str

    def transaction(self) -> AbstractContextManager[None]:
        """A context manager for one transaction; the transactions of different processes do not overlap."""

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute a statement and return the rows found."""

    def now(self) -> float:
        """Seconds since 1970, by the clock that all processes share."""

    def close(self) -> None: ...


def where(storage: str) -> Path | str:
    """The location that ``--storage`` names: the file of ``sqlite:///FILE``, or the address of a server.

    Raises:
        ArgumentError: it is neither of them.

    >>> where("sqlite:///a/lab.db").as_posix()
    'a/lab.db'
    """
    file = storage.removeprefix("sqlite:///")
    if file not in ("", storage):
        return Path(file)
    if is_postgres(storage):
        return storage
    raise ArgumentError(
        "storage must be sqlite:///FILE or postgresql://USER@HOST/DATABASE,"
        f" got {without_password(storage)!r}"
    )


def open_database(place: Path | str, *, write: bool) -> Database:
    """Open a database. With ``write`` its table is created if it does not exist.

    Raises:
        StoreError: it cannot be read or written, or it is not a store of the suite.
    """
    return SQLite(place, write=write) if isinstance(place, Path) else Postgres(place, write=write)
