"""One Parquet file in DuckDB: its columns, and the three passes over it."""

import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipwise.data import _sql
from clipwise.data._arrow import check_names, check_types, is_number, schema_of
from clipwise.data._bounds import Bounds
from clipwise.data._extra import load
from clipwise.data._report import ClippingReport, ColumnReport
from clipwise.data._stream import Stream
from clipwise.errors import ArgumentError, DataError, did_you_mean

__all__ = ["Parquet", "unwritable"]

CODECS = {"UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD", "BROTLI", "LZ4_RAW"}

BATCH = 65536
"""Rows that are in Python's hands at a time."""
LOOK = 0.1
"""Seconds between two looks at how far a query is."""
LONGEST_END = 30.0
"""Seconds that a query is given to end when it is told to; it is left to itself after that."""

Told = Callable[[float], None]
Ends = Mapping[str, tuple[str | None, str | None]]


class Parquet:
    """A file, open for reading, in a DuckDB of its own that keeps to ``memory`` megabytes.

    Args:
        path: the file.
        target: what is being made of it, named where there is no room.
        memory: megabytes for DuckDB.
        scratch: a folder for what does not fit, and for what is being made.

    Raises:
        DataError: the file is no Parquet file, or is cut off, or holds a column that would not stay what it
            is.
    """

    def __init__(self, path: Path, *, target: Path, memory: int, scratch: Path) -> None:
        self._duckdb = load("duckdb")
        load("pyarrow")
        self.path = path
        self._target, self._scratch = target, scratch
        # Of a folder named year=2024 DuckDB would make a column.
        self._from = f"read_parquet({_sql.one_file(str(path))}, hive_partitioning = false)"
        self._connection = self._duckdb.connect(
            config={
                "memory_limit": f"{memory}MB",
                "temp_directory": str(scratch),
                "threads": 2,  # each keeps a row group in memory
                "preserve_insertion_order": True,
                "autoinstall_known_extensions": False,
            }
        )
        self._connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
        try:
            described = self._fetch(f"DESCRIBE SELECT * FROM {self._from}")
            self.types = {str(row[0]): str(row[1]) for row in described}
            place = _sql.one_file(str(path))
            ((self.rows,),) = self._fetch(
                f"SELECT coalesce(sum(num_rows), 0)::BIGINT FROM parquet_file_metadata({place})"
            )
            codecs = self._fetch(f"SELECT compression FROM parquet_metadata({place}) LIMIT 1")
            codec = codecs[0][0] if codecs else "SNAPPY"
            self._options = f"FORMAT parquet, COMPRESSION {codec if codec in CODECS else 'SNAPPY'}"
            kept = self._fetch(f"SELECT key, value FROM parquet_kv_metadata({place})")
            if kept:  # Arrow's own types are in it, and the index of pandas
                words = _sql.struct({key.decode(errors="replace"): value for key, value in kept})
                self._options += f", KV_METADATA {words}"
            self._schema = schema_of(path)
            check_names(path, self._schema, [str(row[0]) for row in described])
            self._fetch(self._copying(f"SELECT * FROM {self._from} LIMIT 0", scratch / "types"))
            check_types(path, self._schema, schema_of(scratch / "types"))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Parquet":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def chosen(self, columns: Sequence[str] | None) -> list[str]:
        """The columns to clip, each of numbers."""
        if columns is None:
            names = [field.name for field in self._schema if is_number(field.type)]
            if not names:
                raise ArgumentError(
                    f"{self.path}: no column of numbers among {', '.join(map(repr, self.types))}"
                )
            return names
        for name in columns:
            if name not in self.types:
                raise ArgumentError(f"{self.path}: no column {name!r}. {did_you_mean(name, self.types)}")
            if not is_number(self._schema.field(name).type):
                raise ArgumentError(f"{self.path}: column {name!r} must be numbers, it {self._holds(name)}")
        return list(columns)

    def read(self, streams: Mapping[str, Stream], told: Told) -> None:
        """Show every value to its column's stream, in double precision."""
        columns = ", ".join(f"CAST({_sql.name(name)} AS DOUBLE)" for name in streams)
        done = 0
        for batch in self._batches(f"SELECT {columns} FROM {self._from}"):
            for column, stream in zip(batch.columns, streams.values(), strict=True):
                stream.update(column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False))
            done += batch.num_rows
            told(done / max(self.rows, 1))

    def _batches(self, query: str) -> Iterator[Any]:
        try:
            yield from self._connection.sql(query).to_arrow_reader(BATCH)
        except (self._duckdb.Error, OSError) as error:  # the latter is what DuckDB says through Arrow
            raise self._failed(error) from error

    def ends(self, bounds: Bounds) -> dict[str, tuple[str | None, str | None]]:
        """The bounds as SQL in the type of each column, None where there is none."""
        return {name: _sql.ends_in(self.types[name], name, *pair) for name, pair in bounds.items()}

    def step(self, name: str) -> float | None:
        """How far apart the numbers of a column are; None for floating-point numbers."""
        return _sql.step_of(self.types[name])

    def count(self, bounds: Bounds, ends: Ends, told: Told) -> ClippingReport:
        """How many values lie outside, on each side of each column."""
        asked = ["count(*)"]
        for column, (low, high) in ends.items():
            name, is_float = _sql.name(column), self.types[column] in _sql.FLOATS
            known = f"NOT isnan({name})" if is_float else f"{name} IS NOT NULL"
            finite = f" FILTER (isfinite({name}))" if is_float else ""
            asked.append(f"count(*) FILTER ({known})")
            asked.append("0" if low is None else f"count(*) FILTER ({name} < {low})")
            asked.append("0" if high is None else f"count(*) FILTER ({known} AND {name} > {high})")
            asked += [f"CAST({extreme}({name}){finite} AS DOUBLE)" for extreme in ("min", "max")]
        ((rows, *figures),) = self._run(f"SELECT {', '.join(asked)} FROM {self._from}", told)
        reports = []
        for i, column in enumerate(ends):
            known, below, above, smallest, largest = figures[5 * i : 5 * i + 5]
            extremes = (math.nan if end is None else end for end in (smallest, largest))
            reports.append(
                ColumnReport(column, *bounds[column], known, rows - known, below, above, *extremes)
            )
        return ClippingReport(tuple(reports))

    def write(self, path: Path, ends: Ends, told: Told) -> None:
        """The whole table with its columns clipped, rows in their order, as a new file."""
        changed = [
            f"{_sql.clipped(_sql.name(c), low, high, self.types[c] in _sql.FLOATS)} AS {_sql.name(c)}"
            for c, (low, high) in ends.items()
        ]
        replaced = f" REPLACE ({', '.join(changed)})" if changed else ""
        self._run(self._copying(f"SELECT *{replaced} FROM {self._from}", path), told)

    def _copying(self, rows: str, path: Path) -> str:
        return f"COPY ({rows}) TO {_sql.text(str(path))} ({self._options})"

    def _holds(self, name: str) -> str:
        kind, quoted = self._schema.field(name).type, _sql.name(name)
        if self.types[name] == "VARCHAR":
            found = self._fetch(
                f"SELECT {quoted} FROM {self._from}"
                f" WHERE TRY_CAST({quoted} AS DOUBLE) IS NULL AND {quoted} IS NOT NULL LIMIT 1"
            )
            return f"holds text such as {found[0][0]!r}" if found else "holds numbers written as text"
        return f"is of type {kind}"

    def _fetch(self, query: str) -> list[tuple[Any, ...]]:
        try:
            rows: list[tuple[Any, ...]] = self._connection.execute(query).fetchall()
        except self._duckdb.Error as error:
            raise self._failed(error) from error
        return rows

    def _run(self, query: str, told: Told) -> list[tuple[Any, ...]]:
        """One long query in a thread of its own, while this one tells how far it is and hears Ctrl-C."""
        outcome: list[Any] = []

        def work() -> None:
            try:
                outcome.append(self._fetch(query))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(LOOK)
                told(max(0.0, min(1.0, self._connection.query_progress() / 100)))
        except BaseException:
            # Again and again: a word that comes before the query has begun is lost.
            end = time.monotonic() + LONGEST_END
            while thread.is_alive() and time.monotonic() < end:
                self._connection.interrupt()
                thread.join(LOOK)
            raise
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        told(1.0)
        rows: list[tuple[Any, ...]] = outcome[0]
        return rows

    def _failed(self, error: Exception) -> DataError:
        said = str(error).strip().split("\n")[0]
        if isinstance(error, self._duckdb.OutOfMemoryException):
            return DataError(
                f"{self.path}: DuckDB needs more memory than it was given (memory, --memory): {said}"
            )
        if str(self._scratch) in said:
            number = re.search(r'"errno":"(\d+)"', said)
            return unwritable(self._target, os.strerror(int(number[1])) if number else said)
        return DataError(f"{self.path}: DuckDB could not finish, the file may be damaged or cut off ({said})")


def unwritable(target: Path, failure: OSError | str) -> DataError:
    """What is raised where a file cannot be made."""
    return DataError(f"{target} cannot be written ({getattr(failure, 'strerror', None) or failure})")
