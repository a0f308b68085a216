"""One Parquet file in DuckDB: its columns, and the three passes over it."""

import math
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from clipwise.data._bounds import Bounds, whole
from clipwise.data._extra import load
from clipwise.data._report import ClippingReport, ColumnReport
from clipwise.data._stream import Stream
from clipwise.errors import ArgumentError, DataError, did_you_mean

__all__ = ["Parquet"]

FLOATS = ("FLOAT", "DOUBLE")
INTEGERS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64, "HUGEINT": 128}
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
        memory: megabytes for DuckDB.
        scratch: a folder for what does not fit.

    Raises:
        DataError: the file is no Parquet file, or is cut off.
    """

    def __init__(self, path: Path, *, memory: int, scratch: Path) -> None:
        self._duckdb = load("duckdb")
        load("pyarrow")
        self.path = path
        # Of a folder named year=2024 DuckDB would make a column.
        self._from = f"read_parquet({_text(_no_glob(str(path)))}, hive_partitioning = false)"
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
            place = _text(_no_glob(str(path)))
            ((self.rows,),) = self._fetch(
                f"SELECT coalesce(sum(num_rows), 0)::BIGINT FROM parquet_file_metadata({place})"
            )
            codecs = self._fetch(f"SELECT compression FROM parquet_metadata({place}) LIMIT 1")
        except BaseException:
            self.close()
            raise
        self.types = {str(row[0]): str(row[1]) for row in described}
        codec = codecs[0][0] if codecs else "SNAPPY"
        self._codec = codec if codec in CODECS else "SNAPPY"

    def __enter__(self) -> "Parquet":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def chosen(self, columns: Sequence[str] | None) -> list[str]:
        """The columns to clip, each of numbers."""
        if isinstance(columns, str):
            raise ArgumentError(f"columns must be a list of names, got the text {columns!r}")
        if columns is None:
            names = [name for name, kind in self.types.items() if _is_number(kind)]
            if not names:
                raise ArgumentError(
                    f"{self.path}: no column of numbers among {', '.join(map(repr, self.types))}"
                )
            return names
        for name in columns:
            if name not in self.types:
                raise ArgumentError(f"{self.path}: no column {name!r}. {did_you_mean(name, self.types)}")
            if not _is_number(self.types[name]):
                raise ArgumentError(f"{self.path}: column {name!r} must be numbers, it {self._holds(name)}")
        return list(dict.fromkeys(columns))

    def read(self, streams: Mapping[str, Stream], told: Told) -> None:
        """Show every value to its column's stream, in double precision."""
        columns = ", ".join(f"CAST({_name(name)} AS DOUBLE)" for name in streams)
        done = 0
        try:
            relation = self._connection.sql(f"SELECT {columns} FROM {self._from}")
            for batch in relation.to_arrow_reader(BATCH):
                for column, stream in zip(batch.columns, streams.values(), strict=True):
                    stream.update(column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False))
                done += batch.num_rows
                told(done / max(self.rows, 1))
        except self._duckdb.Error as error:
            raise self._unreadable(error) from error
        except OSError as error:  # what DuckDB says through Arrow
            raise self._unreadable(error) from error

    def ends(self, bounds: Bounds) -> dict[str, tuple[str | None, str | None]]:
        """The bounds as SQL in the type of each column, None where there is none."""
        return {name: _ends(name, self.types[name], *pair) for name, pair in bounds.items()}

    def count(self, bounds: Bounds, ends: Ends, told: Told) -> ClippingReport:
        """How many values lie outside, on each side of each column."""
        asked = ["count(*)"]
        for column, (low, high) in ends.items():
            name, is_float = _name(column), self.types[column] in FLOATS
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
            f"{_clipped(_name(c), low, high, self.types[c] in FLOATS)} AS {_name(c)}"
            for c, (low, high) in ends.items()
        ]
        replaced = f" REPLACE ({', '.join(changed)})" if changed else ""
        copied = f"COPY (SELECT *{replaced} FROM {self._from}) TO {_text(str(path))}"
        self._run(f"{copied} (FORMAT parquet, COMPRESSION {self._codec})", told)

    def _holds(self, name: str) -> str:
        kind, quoted = self.types[name], _name(name)
        if kind == "VARCHAR":
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
            raise self._unreadable(error) from error
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

    def _unreadable(self, error: Exception) -> DataError:
        said = str(error).strip().split("\n")[0]
        if isinstance(error, self._duckdb.OutOfMemoryException):
            return DataError(
                f"{self.path}: DuckDB needs more memory than it was given (memory, --memory): {said}"
            )
        return DataError(f"{self.path}: DuckDB could not finish, the file may be damaged or cut off ({said})")


def _is_number(kind: str) -> bool:
    return kind in FLOATS or kind.removeprefix("U") in INTEGERS or kind.startswith("DECIMAL")


def _ends(column: str, kind: str, low: float, high: float) -> tuple[str | None, str | None]:
    if kind in FLOATS:
        # Read from text, as a literal with a point would be a decimal first.
        plain = np.float32 if kind == "FLOAT" else np.float64
        first, second = (None if math.isinf(end) else repr(float(plain(end))) for end in (low, high))
    else:
        least, most, scale = _steps(kind)
        first, second = (
            None if end is None else f"{Decimal(f'{end}e-{scale}'):f}"
            for end in whole(column, low, high, least, most, scale)
        )
    low_sql, high_sql = (None if end is None else f"CAST('{end}' AS {kind})" for end in (first, second))
    return low_sql, high_sql


def _steps(kind: str) -> tuple[int, int, int]:
    """A type of whole numbers or decimals: from how many steps to how many, each of ``10**-scale``."""
    if kind.startswith("DECIMAL"):
        precision, scale = map(int, re.findall(r"\d+", kind))
        return 1 - 10**precision, 10**precision - 1, scale
    bits = INTEGERS[kind.removeprefix("U")]
    return (0, 2**bits - 1, 0) if kind[0] == "U" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0)


def _clipped(name: str, low: str | None, high: str | None, is_float: bool) -> str:
    cases = [f"WHEN isnan({name}) THEN {name}"] if is_float else []  # to DuckDB NaN is above every number
    cases += [] if low is None else [f"WHEN {name} < {low} THEN {low}"]
    cases += [] if high is None else [f"WHEN {name} > {high} THEN {high}"]
    return f"CASE {' '.join(cases)} ELSE {name} END" if low or high else name


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _no_glob(path: str) -> str:
    """The path of one file, whatever characters it has."""
    return re.sub(r"([*?\[])", r"[\1]", path)
