"""The store on a server of PostgreSQL, which machines without a common folder can share."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from clipwise.errors import StoreError
from clipwise.extras import load
from clipwise.lab.suite.sqlite import TABLE

__all__ = ["Postgres", "is_postgres", "without_password"]

SCHEMA = "clipwise_lab_1"
"""Of the tables; the number is that of the version."""
LOCK = 0x636C6C62
"""That processes wait for before they change anything; any number that nobody else uses in the database."""
KINDS = ("postgresql", "postgres", "postgresql+psycopg")
"""The last one is how SQLAlchemy names the driver."""


def is_postgres(storage: str) -> bool:
    return storage.partition("://")[0] in KINDS and "://" in storage


def without_password(storage: str) -> str:
    """A text in which the password of an address is replaced by ``***``.

    >>> without_password("postgresql://ann:secret@host/lab")
    'postgresql://ann:***@host/lab'
    """
    storage = re.sub(r"(://[^:/@]*):[^/]*@", r"\1:***@", storage)
    return re.sub(r"(password=)[^&\s]*", r"\1***", storage)


class Postgres:
    """A database on a PostgreSQL server. A lost connection is opened again before the next transaction.

    Args:
        address: a connection URI of libpq, ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE``.
        write: create the schema and its table if they do not exist.

    Raises:
        StoreError: psycopg is missing, the server cannot be reached, or there is no store and ``write`` is
            False.
    """

    remedy = "choose another with --storage"

    def __init__(self, address: str, *, write: bool) -> None:
        self.place = without_password(address)
        self._address = "postgresql://" + address.partition("://")[2]
        self._driver = self._load()
        self._inside = False
        with self._explained():
            self._connection = self._connect()
        if write:
            with self.transaction():
                self.rows(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
                self.rows(TABLE)
        elif self.rows("SELECT to_regclass('cells')") == [(None,)]:
            raise StoreError(f"there is no store in {self.place!r}: run clipwise lab run first")

    def _load(self) -> ModuleType:
        try:
            return load("psycopg", purpose="the storage", extra="lab")
        except ImportError as error:  # it, or the library beneath it
            raise StoreError(
                f"the storage {self.place!r} needs a driver: pip install 'psycopg[binary]'"
            ) from error

    def _connect(self) -> Any:
        connection = self._driver.connect(self._address, autocommit=True)
        connection.execute(f"SET search_path TO {SCHEMA}")
        return connection

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._driver.Error as error:
            reason = str(error).strip().partition("\n")[0]
            raise StoreError(
                f"the storage {self.place!r} cannot be used ({without_password(reason)}): try again, or"
                f" {self.remedy}"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self.rows("BEGIN")
        self._inside = True
        try:
            self.rows("SELECT pg_advisory_xact_lock(?)", (LOCK,))
            yield
            self.rows("COMMIT")
        except BaseException:
            if not self._connection.closed:
                self.rows("ROLLBACK")
            raise
        finally:
            self._inside = False

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        statement = statement.replace("?", "%s")
        with self._explained():
            try:
                cursor = self._connection.execute(statement, values or None)
            except self._driver.OperationalError:
                if self._inside or not self._connection.closed:
                    raise
                self._connection = self._connect()
                cursor = self._connection.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def now(self) -> float:
        """By the clock of the server, whatever those of the machines say."""
        ((seconds,),) = self.rows("SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(seconds)

    def close(self) -> None:
        self._connection.close()
