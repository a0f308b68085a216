"""Parquet and CSV files of any size, clipped by DuckDB in bounded memory and written atomically."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clipwise.checks import whole
from clipwise.data._bounds import Bounds, widened
from clipwise.data._column_sketch import ColumnSketch
from clipwise.data._csv import CsvSource, write_csv
from clipwise.data._database import Database, unwritable
from clipwise.data._expressions import Typed, step_of
from clipwise.data._extra import load
from clipwise.data._formats import FileFormat, source_format, target_format
from clipwise.data._parquet import ParquetSource, write_parquet
from clipwise.data._parquet_types import schema_of
from clipwise.data._report import ClippingReport
from clipwise.data._rule import BoundsRule, Given, Method, Side, bounds_rule, distinct_names
from clipwise.data._single_value import warn_of_single_value
from clipwise.data._statistics import RANK_ERROR, sketch_size
from clipwise.data._table import refuse_empty
from clipwise.errors import ArgumentError, DataError, did_you_mean
from clipwise.files import replacing

__all__ = ["MEMORY", "ClippedFile", "Progress", "clip_file", "column_names"]

MEMORY = 256
"""Megabytes for DuckDB; Python and the sketches come on top."""

Progress = Callable[[str, float], None]
"""Told what is being done, ``"learning"``, ``"counting"`` or ``"writing"``, and what share of it is."""

Source = ParquetSource | CsvSource


@dataclass(frozen=True)
class ClippedFile:
    """What was written.

    Attributes:
        path: the new file.
        rows: its number of rows.
        bounds: the bounds of its columns.
        report: how many values were clipped on each side: an exact count.
        rank_error: rank error of the quantiles behind the bounds, 0 if they are exact.
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
    """Clip columns of a Parquet or CSV file into a new file, in bounded memory.

    The file is read from start to end two to four times: a first pass over CSV finds the numeric columns, the
    next one fills a KLL sketch per column, one counts the values outside, and the last one writes. Once a
    sketch is full, quantiles differ between runs by up to ``rank_error``: to get the same result again, pass
    the bounds of the first run (`ClippedFile.bounds`).

    Formats follow from the file names: .csv and .tsv (also .gz and .zst), otherwise Parquet. Rows, their
    order, NaN, nulls, compression and the metadata of other tools are kept. Column types are kept, except
    that timestamps (in seconds, milliseconds or 96 bits) and times of day become microseconds, dates become
    days, half precision becomes single precision, and fixed-length binary becomes variable-length. A column
    whose values DuckDB cannot keep is refused. Bounds of integers and decimals are rounded inwards; if
    numbers are too long for a double, learned bounds are moved outwards by one double. From CSV to CSV,
    values that are not clipped are kept character for character. From CSV, which has no types, to Parquet,
    columns become integers, floats or text.

    The new file is written beside its place and moved there when it is complete. A replaced file keeps its
    mode, a symbolic link is kept, and a device or a pipe is written to directly.

    Args:
        source, target: the files; they may be the same with ``force``.
        method: as for `Clipper`; or `Bounds`, or ``{column: (low, high)}``.
        columns: names; None for every numeric column (no dates, durations or lists).
        low, high, factor, side, rank_error: as for `Clipper`.
        memory: megabytes that DuckDB may use.
        force: replace ``target`` if it exists.
        progress: called with the name of the phase and its progress.

    Returns:
        A `ClippedFile`.

    Warns:
        UserWarning: bounds that were learned, or given as `Bounds`, make all values of a column the same.

    Raises:
        ArgumentError: an argument is not allowed, ``target`` exists, a column does not exist, is not numeric
            or is empty.
        DataError: ``source`` is not a complete Parquet or CSV file or holds a column that DuckDB cannot keep,
            or ``target`` cannot be written.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "in.csv").write_text("x\\n1\\n2\\n300\\n")
    >>> done = clip_file(folder / "in.csv", folder / "out.csv", {"x": (None, 10)})
    >>> (folder / "out.csv").read_text().split(), done.rows
    (['x', '1', '2', '10'], 3)
    """
    source, target = Path(source), Path(target)
    bounds: Bounds | None = None
    rule: BoundsRule | None = None
    if isinstance(method, Mapping):
        if columns is not None or low is not None or high is not None or factor is not None or side != "both":
            raise ArgumentError("columns, low, high, factor and side are part of the bounds that were given")
        bounds = method if isinstance(method, Bounds) else Bounds(method)
    else:
        rule = bounds_rule(method, low, high, factor, side)
    size = sketch_size(rank_error)
    whole("memory", memory, low=64, allowed="64 megabytes or more")
    columns = None if columns is None else distinct_names(columns)
    form = target_format(target, source)
    _check_places(source, target, force)
    told = progress or (lambda stage, share: None)

    with (
        _replacing(target, force) as part,
        Database(source, target, memory=memory, scratch=part.parent) as database,
    ):
        opened = _opened(database, source)
        names = _chosen(opened, database, list(bounds) if bounds is not None else columns)
        error = 0.0
        if rule is not None and rule.method == "given":
            bounds = Bounds(dict(zip(names, rule.given(names), strict=True)))
        elif rule is not None:
            sketches = {name: ColumnSketch(size) for name in names}
            _fill(sketches, opened, database, lambda share: told("learning", share))
            bounds = Bounds({name: _learnt(opened, rule, name, one) for name, one in sketches.items()})
            error = max((one.rank_error for one in sketches.values()), default=0.0)
            del sketches
        assert bounds is not None
        table, limits = opened.table, bounds
        typed = table.typed(limits)
        rows, report = database.run(
            lambda: table.count_outside(limits, typed), lambda share: told("counting", share)
        )
        if isinstance(method, Bounds) or (rule is not None and rule.method != "given"):
            for one in report:
                pair, extremes = (one.low, one.high), (one.smallest, one.largest)
                warn_of_single_value(one.column, pair, extremes, method=rule.method if rule else None)
        database.run(
            lambda: _write(opened, database, typed, part, form), lambda share: told("writing", share)
        )
    return ClippedFile(target, rows, bounds, report, error)


def column_names(source: str | Path) -> list[str]:
    """The columns of a Parquet or CSV file.

    Raises:
        DataError: the file is neither.
    """
    source = Path(source)
    _check_source(source)
    if source_format(source).name == "Parquet":
        return list(schema_of(source).names)
    with (
        tempfile.TemporaryDirectory(prefix="clipwise-") as scratch,
        Database(source, source, memory=MEMORY, scratch=Path(scratch)) as database,
    ):
        return list(CsvSource(database, source, sample=20_000).table.names)


def _opened(database: Database, source: Path) -> Source:
    parquet = source_format(source).name == "Parquet"
    return ParquetSource(database, source) if parquet else CsvSource(database, source)


def _chosen(opened: Source, database: Database, columns: Sequence[str] | None) -> list[str]:
    """The columns to clip, each of numbers."""
    known = list(opened.table.names)
    if columns is None:
        names = [name for name in known if opened.is_number(name)]
        if not names:
            raise ArgumentError(f"{database.source}: no numeric column among {', '.join(map(repr, known))}")
        return names
    for name in columns:
        if name not in known:
            raise ArgumentError(f"{database.source}: no column {name!r}. {did_you_mean(name, known)}")
        problem = None if opened.is_number(name) else _problem(opened, database, name)
        if problem:
            raise ArgumentError(f"{database.source}: column {name!r} must be numbers, it {problem}")
    return list(columns)


def _problem(opened: Source, database: Database, name: str) -> str | None:
    """What a column holds that is no number; text of CSV that can be read as numbers is from now on."""
    nw = load("narwhals.stable.v2")
    if opened.table.types[name] != nw.String:
        return f"is of type {opened.kind(name)}"
    texts = opened.table.frame.select(text=nw.col(name)).drop_nulls()
    texts = texts.filter(~nw.col("text").is_in(opened.missing)).to_native()
    found = database.attempt(texts.filter("TRY_CAST(text AS DOUBLE) IS NULL").limit(1).fetchall)
    if found:
        return f"holds text such as {found[0][0]!r}"
    if isinstance(opened, ParquetSource):
        return "holds numbers written as text"
    opened.read_as_numbers({name: nw.Float64()})
    return None


def _fill(
    sketches: Mapping[str, ColumnSketch], opened: Source, database: Database, told: Callable[[float], None]
) -> None:
    """Show every value to its column's sketch, in double precision."""
    nw = load("narwhals.stable.v2")
    doubles = opened.table.frame.select(*(nw.col(name).cast(nw.Float64) for name in sketches))
    done = 0
    for batch in database.batches(doubles.to_native()):
        for column, sketch in zip(batch.columns, sketches.values(), strict=True):
            sketch.update(column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False))
        done += batch.num_rows
        told(done / max(opened.rows, 1) if opened.rows is not None else database.progress())
    if opened.rows is None:
        told(1.0)


def _learnt(opened: Source, rule: BoundsRule, name: str, sketch: ColumnSketch) -> tuple[float, float]:
    refuse_empty(name, sketch.finite)
    return widened(rule.interval(name, *sketch.statistics(rule)), step_of(opened.table.types[name]))


def _write(
    opened: Source, database: Database, typed: Mapping[str, Typed], part: Path, form: FileFormat
) -> None:
    """The whole table with its columns clipped, rows in their order, as a new file."""
    new = part.with_name("new")  # of any other name DuckDB would read the ending
    if form.name == "Parquet":
        options = opened.options if isinstance(opened, ParquetSource) else {}
        write_parquet(database, opened.table.clipped(typed).to_native(), new, **options)
    elif isinstance(opened, ParquetSource):
        relation = opened.table.clipped(typed).to_native()
        write_csv(database, relation, new, delimiter=form.delimiter, compression=form.compression)
    else:
        same = source_format(database.source).delimiter == form.delimiter
        options = opened.options | ({} if same else {"delimiter": form.delimiter})
        relation = opened.clipped_text(typed).to_native()
        write_csv(database, relation, new, header=opened.header, compression=form.compression, **options)
    new.rename(part)


def _check_source(source: Path) -> None:
    if os.path.isdir(source):
        raise DataError(f"{source}: a folder, expected a Parquet file or CSV")
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            raise DataError(f"{source}: not a regular file, which it must be, as it is read several times")
        source.open("rb").close()
    except OSError as failure:
        why = "no such file" if failure.errno in (errno.ENOENT, errno.ENAMETOOLONG) else failure.strerror
        raise DataError(f"{source}: {why}") from failure


def _check_places(source: Path, target: Path, force: bool) -> None:
    _check_source(source)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        if not target.resolve().parent.is_dir():
            raise ArgumentError(f"{target}: there is no folder {target.parent}") from None
    except OSError as failure:
        raise unwritable(target, failure) from failure
    else:
        if stat.S_ISDIR(mode):
            raise ArgumentError(f"{target} is a folder, expected the name of a file")
        if stat.S_ISREG(mode) and not force:
            raise ArgumentError(f"{target} exists; force (--force) replaces it")


@contextmanager
def _replacing(target: Path, force: bool) -> Iterator[Path]:
    """As `clipwise.files.replacing`; a file that was made meanwhile is kept.

    Raises:
        DataError: the place cannot be written to. Errors of the body are its own.
    """
    failed: BaseException | None = None
    try:
        with replacing(target) as part:
            try:
                yield part
            except BaseException as error:
                failed = error
                raise
            if target.is_file() and not force:
                raise ArgumentError(
                    f"{target} was created by another process meanwhile; force (--force) replaces it"
                )
    except OSError as failure:
        if failure is failed:
            raise
        raise unwritable(target, failure) from failure
