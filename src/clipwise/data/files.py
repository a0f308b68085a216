"""A Parquet file of any size, clipped through DuckDB in bounded memory; the new file is whole or absent."""

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipwise.data._arrow import schema_of
from clipwise.data._bounds import Bounds, outwards
from clipwise.data._parquet import Parquet, unwritable
from clipwise.data._report import ClippingReport
from clipwise.data._rule import Given, Method, Rule, Side, make_rule, named
from clipwise.data._statistics import RANK_ERROR, sketch_size
from clipwise.data._stream import Stream
from clipwise.errors import ArgumentError, DataError

__all__ = ["MEMORY", "ClippedFile", "Progress", "clip_file", "column_names"]

MEMORY = 256
"""Megabytes for DuckDB; Python and the sketches come on top."""

PART = "part.parquet"
"""The new file before it is complete."""

Progress = Callable[[str, float], None]
"""Told what is being done, ``"learning"``, ``"counting"`` or ``"writing"``, and what share of it is."""


@dataclass(frozen=True)
class ClippedFile:
    """What was written.

    Attributes:
        path: the new file.
        rows: its number of rows.
        bounds: what its columns were clipped to.
        report: how many values were clipped on each side; counted.
        rank_error: what the quantiles behind the bounds may be off, 0 if they are exact.
    """

    path: Path
    rows: int
    bounds: Bounds
    report: ClippingReport
    rank_error: float


def clip_file(
    source: str | Path,
    target: str | Path,
    method: Method | Mapping[str, Any] = "quantiles",
    *,
    columns: Sequence[str] | None = None,
    low: Given = None,
    high: Given = None,
    factor: float | None = None,
    side: Side = "both",
    rank_error: float = RANK_ERROR,
    memory: int = MEMORY,
    force: bool = False,
    progress: Progress | None = None,
) -> ClippedFile:
    """Clip columns of a Parquet file into a new one, reading it twice or three times from end to end.

    The first reading fills a KLL sketch a column, the second counts what lies outside, the third writes. A
    sketch that is full gives quantiles that differ from run to run by ``rank_error``: clip with the bounds of
    the first run (`ClippedFile.bounds`) to get the same again.

    Rows, their order, NaN, nulls, compression and the metadata of other tools stay. So do the types of
    columns, except that time stamps (of seconds, milliseconds or 96 bits) and times of day come in
    microseconds, dates in days, half precision in single, bytes of fixed length in variable; a column whose
    values DuckDB could not keep is refused. Bounds of whole numbers and decimals are rounded inwards; bounds
    learnt of numbers too long for a double are one of its steps further out. The new file is written beside
    its place and moved there when complete; one that it replaces keeps its mode, and a link stays one.

    Args:
        source, target: the files; they may be the same with ``force``.
        method: as for `Clipper`; or `Bounds`, or ``{column: (low, high)}``.
        columns: names; None for every column of numbers (Arrow's: no dates, durations or lists).
        low, high, factor, side, rank_error: as for `Clipper`.
        memory: megabytes that DuckDB may use.
        force: replace ``target`` if it exists.
        progress: told how far it is.

    Raises:
        ArgumentError: an argument is outside what is allowed, ``target`` exists, a column is not there, holds
            no numbers or is empty.
        DataError: ``source`` is no whole Parquet file or holds a column that DuckDB cannot keep, or
            ``target`` cannot be written.
    """
    source, target = Path(source), Path(target)
    if isinstance(method, Mapping):
        if columns is not None or low is not None or high is not None or factor is not None or side != "both":
            raise ArgumentError("columns, low, high, factor and side are part of the bounds that were given")
        bounds, rule = method if isinstance(method, Bounds) else Bounds(method), None
    else:
        bounds, rule = None, make_rule(method, low, high, factor, side)
    size = sketch_size(rank_error)
    if isinstance(memory, bool) or not isinstance(memory, int) or memory < 64:
        raise ArgumentError(f"memory must be 64 megabytes or more, got {memory!r}")
    columns = None if columns is None else named(columns)
    place = target.resolve()  # of a link, where it leads
    _check_places(source, target, place, force)
    told = progress or (lambda stage, share: None)

    with (
        _scratch(target, place.parent) as scratch,
        Parquet(source, target=target, memory=memory, scratch=scratch) as table,
    ):
        error = 0.0
        names = table.chosen(list(bounds) if bounds is not None else columns)
        if rule is not None and rule.method == "given":
            bounds = Bounds(dict(zip(names, rule.given(names), strict=True)))
        elif rule is not None:
            streams = {name: Stream(size) for name in names}
            table.read(streams, lambda share: told("learning", share))
            bounds = Bounds({name: _learnt(table, rule, name, stream) for name, stream in streams.items()})
            error = max((stream.rank_error for stream in streams.values()), default=0.0)
            del streams
        assert bounds is not None
        ends = table.ends(bounds)
        report = table.count(bounds, ends, lambda share: told("counting", share))
        table.write(scratch / PART, ends, lambda share: told("writing", share))
        _move(scratch / PART, target, place, force)
        return ClippedFile(target, table.rows, bounds, report, error)


def column_names(source: str | Path) -> list[str]:
    """The columns of a Parquet file.

    Raises:
        DataError: it is no Parquet file.
    """
    _check_source(Path(source))
    return list(schema_of(Path(source)).names)


def _learnt(table: Parquet, rule: Rule, name: str, stream: Stream) -> tuple[float, float]:
    if not stream.finite:
        raise ArgumentError(
            f"{table.path}: column {name!r} is empty: it holds no finite number to learn from"
        )
    return outwards(rule.interval(name, *stream.figures(rule)), table.step(name))


def _check_source(source: Path) -> None:
    if not os.path.isfile(source):
        what = "a folder, expected a Parquet file" if os.path.isdir(source) else "no such file"
        raise DataError(f"{source}: {what}")


def _check_places(source: Path, target: Path, place: Path, force: bool) -> None:
    _check_source(source)
    try:
        there = place.stat()
    except FileNotFoundError:
        if not place.parent.is_dir():
            raise ArgumentError(f"{target}: there is no folder {target.parent}") from None
    except OSError as failure:
        raise unwritable(target, failure) from failure
    else:
        if stat.S_ISDIR(there.st_mode):
            raise ArgumentError(f"{target} is a folder, expected the name of a file")
        if not force:
            raise ArgumentError(f"{target} exists; force (--force) replaces it")


@contextmanager
def _scratch(target: Path, folder: Path) -> Iterator[Path]:
    """A folder beside the target, so that a file moves out of it at once; gone at the end."""
    try:
        made = tempfile.TemporaryDirectory(prefix=".clipwise-", dir=folder, ignore_cleanup_errors=True)
    except OSError as failure:
        raise unwritable(target, failure) from failure
    with made as scratch:
        yield Path(scratch)


def _move(part: Path, target: Path, place: Path, force: bool) -> None:
    """Put the complete file in its place at once."""
    try:
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if place.exists():
            if not force:
                raise ArgumentError(
                    f"{target} was made by somebody else meanwhile; force (--force) replaces it"
                )
            shutil.copymode(place, part)
        os.replace(part, place)
    except OSError as failure:
        raise unwritable(target, failure) from failure
