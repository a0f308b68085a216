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
    """A database with the table ``cells``. Statements have ``?`` for values, and are those that both know.

    Attributes:
        place: where it is, for messages; without a password.
        remedy: what a person can do who wants another one.
    """

    place: str
    remedy: str

    def transaction(self) -> AbstractContextManager[None]:
        """Around statements that are carried out together or not at all, one process after the other."""

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Carry out a statement; what it found."""

    def now(self) -> float:
        """Seconds since 1970, by the one clock that all processes are held to."""

    def close(self) -> None: ...


def where(storage: str) -> Path | str:
    """The place that ``--storage`` names: the file of ``sqlite:///FILE``, or the address of a server.

    Raises:
        ArgumentError: it is neither.

    >>> where("sqlite:///a/lab.db").as_posix()
    'a/lab.db'
    """
    file = storage.removeprefix("sqlite:///")
    if file not in ("", storage):
        return Path(file)
    if is_postgres(storage):
        return storage
    raise ArgumentError(
        f"a storage is sqlite:///FILE or postgresql://USER@HOST/DATABASE, not {without_password(storage)!r}"
    )


def open_database(place: Path | str, *, write: bool) -> Database:
    """Open it, and make its table where there is none and ``write``.

    Raises:
        StoreError: it cannot be read or written, or is none of the suite; with what to do.
    """
    return SQLite(place, write=write) if isinstance(place, Path) else Postgres(place, write=write)
