"""A DuckDB connection with bounded memory, whose long queries report progress and can be interrupted."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from clipwise.data._extra import load
from clipwise.errors import DataError

BATCH = 65536
"""Rows that are in Python's hands at a time."""
LOOK = 0.1
"""Seconds between two looks at how far a query is."""
LONGEST_END = 30.0
"""Seconds that a query is given to end when it is told to; it is left to itself after that."""

Progress = Callable[[float], None]
Result = TypeVar("Result")


class Database:
    """A connection whose errors are `DataError`.

    Args:
        source: the file that is read, named where it is damaged.
        target: what is being made of it, named where there is no room.
        memory: megabytes.
        scratch: a folder for what does not fit, and for what is being made.
    """

    def __init__(self, source: Path, target: Path, *, memory: int, scratch: Path) -> None:
        self._duckdb = load("duckdb")
        load("pyarrow")
        self.source, self._target, self.scratch = source, target, scratch
        self.connection = self._duckdb.connect(
            config={
                "memory_limit": f"{memory}MB",
                "temp_directory": str(scratch),
                "threads": 2,  # each keeps a row group in memory
                "preserve_insertion_order": True,
                "autoinstall_known_extensions": False,
            }
        )
        self.connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")

    def __enter__(self) -> "Database":
        return self

    def __exit__(self, *error: object) -> None:
        self.connection.close()

    def fetch(self, query: str, **values: Any) -> list[tuple[Any, ...]]:
        """The rows of a query with values in place of ``$name``."""

        def rows() -> list[tuple[Any, ...]]:
            found: list[tuple[Any, ...]] = self.connection.execute(query, values).fetchall()
            return found

        return self.attempt(rows)

    def attempt(self, work: Callable[[], Result]) -> Result:
        """What some work with the connection returns."""
        try:
            return work()
        except (self._duckdb.Error, OSError) as error:  # the latter is what DuckDB says through Arrow
            raise self._failed(error) from error

    def batches(self, relation: Any) -> Iterator[Any]:
        """The rows of a relation as Arrow's record batches."""
        reader = iter(self.attempt(lambda: relation.to_arrow_reader(BATCH)))
        while (batch := self.attempt(lambda: next(reader, None))) is not None:
            yield batch

    def progress(self) -> float:
        """What share of the running query is done, as far as DuckDB knows."""
        return max(0.0, min(1.0, float(self.connection.query_progress()) / 100))

    def run(self, work: Callable[[], Result], progress: Progress) -> Result:
        """One long query in a thread of its own, while this one tells how far it is and hears Ctrl-C."""
        outcome: list[Any] = []

        def attempt() -> None:
            try:
                outcome.append(self.attempt(work))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(LOOK)
                progress(self.progress())
        except BaseException:
            # Again and again: a word that comes before the query has begun is lost.
            end = time.monotonic() + LONGEST_END
            while thread.is_alive() and time.monotonic() < end:
                self.connection.interrupt()
                thread.join(LOOK)
            raise
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        progress(1.0)
        result: Result = outcome[0]
        return result

    def _failed(self, error: Exception) -> DataError:
        said = str(error).strip().split("\n")
        if isinstance(error, self._duckdb.OutOfMemoryException):
            return DataError(
                f"{self.source}: DuckDB needs more memory than it was given (memory, --memory): {said[0]}"
            )
        if str(self.scratch) in said[0]:
            number = re.search(r'"errno":"(\d+)"', said[0])
            return unwritable(self._target, os.strerror(int(number[1])) if number else said[0])
        why = (
            "; ".join(line.strip() for line in said[:3] if line.strip())
            if "CSV Error" in said[0]
            else said[0]
        )
        return DataError(
            f"{self.source}: DuckDB could not finish, the file may be damaged or cut off ({why})"
        )


def unwritable(target: Path, failure: OSError | str) -> DataError:
    """What is raised where a file cannot be made."""
    return DataError(f"{target} cannot be written ({getattr(failure, 'strerror', None) or failure})")


def escaped(path: Path) -> str:
    """The path of one file as DuckDB reads it, whatever characters it has."""
    return re.sub(r"([*?\[])", r"[\1]", str(path))
