"""Tables from CSV files: read whatever is there, and say in one sentence what is not."""

import io
import lzma
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from clipwise.errors import DataError, did_you_mean

__all__ = ["numbers", "read_csv", "require_columns", "times"]

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "?"]
"""What counts as a missing value in a CSV file."""


def read_csv(path: Path, *, text_columns: Sequence[str] = ()) -> pl.DataFrame:
    """The table in a ``.csv`` or ``.csv.xz`` file with a header line.

    Args:
        path: the file.
        text_columns: columns that stay text although they look like numbers, such as keys.

    Raises:
        DataError: the file is missing, empty, binary, or no table.
    """
    content = _content(path)
    try:
        frame = pl.read_csv(
            io.BytesIO(content),
            null_values=MISSING,
            schema_overrides=dict.fromkeys(text_columns, pl.String),
            infer_schema_length=None,  # a column of whole numbers may turn to fractions in its last row
        )
    except (pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no CSV table ({str(error).splitlines()[0]})") from error
    if frame.is_empty():
        raise DataError(f"{path}: a header and no rows")
    return frame


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if path.suffix == ".xz":
        try:
            content = lzma.decompress(content)
        except lzma.LZMAError as error:
            raise DataError(f"{path}: not an xz file ({error})") from error
    if not content.strip():
        raise DataError(f"{path}: the file is empty")
    if b"\0" in content[:65536]:
        raise DataError(f"{path}: a binary file, expected a CSV table")
    return content


def require_columns(frame: pl.DataFrame, columns: Sequence[tuple[str, str]], where: str) -> None:
    """Check that each ``(key, column)`` is there; ``key`` is the setting that asked for the column."""
    for key, column in columns:
        if column not in frame.columns:
            raise DataError(
                f"{where}: no column {column!r} (data.{key}). {did_you_mean(column, frame.columns)}"
            )


def numbers(frame: pl.DataFrame, key: str, column: str, where: str) -> pl.Series:
    """A column as float64 with missing and infinite values as null; DataError where it is no number."""
    series = frame[column]
    if series.dtype == pl.Boolean or series.dtype.is_numeric():
        values = series.cast(pl.Float64)
        return values.to_frame().select(pl.when(pl.col(column).is_finite()).then(pl.col(column))).to_series()
    sample = series.drop_nulls().head(1).to_list()
    seen = f"it holds {sample[0]!r}" if sample else "it holds nothing"
    raise DataError(f"{where}: column {column!r} (data.{key}) must be numbers, {seen}")


FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.fZ",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
)
DATE_FORMATS = ("%Y-%m-%d", "%Y/%m/%d", "%m/%d/%Y", "%d.%m.%Y")


def times(frame: pl.DataFrame, column: str, where: str) -> pl.Series:
    """A time column as float64: seconds for dates and times of the usual formats, numbers as they are.

    Raises:
        DataError: naming a value that is missing or in no known format.
    """
    series = frame[column]
    if series.dtype.is_numeric():
        values = series.cast(pl.Float64)
    else:
        parsed = _parse(series, series.len() - series.null_count())
        if parsed is None:
            sample = series.drop_nulls().head(1).to_list()
            raise DataError(
                f"{where}: column {column!r} (data.time_column) must be numbers or times such as"
                f" 2011-12-09 12:50, got {sample[0] if sample else 'nothing'!r}"
            )
        values = parsed
    if values.null_count() or values.is_nan().any():
        raise DataError(f"{where}: column {column!r} (data.time_column) has rows without a time")
    return values


def _parse(series: pl.Series, expected: int) -> pl.Series | None:
    if series.dtype != pl.String:
        return None
    for form in FORMATS:
        found = series.str.to_datetime(form, strict=False, time_unit="us")
        if found.len() - found.null_count() == expected:
            return found.dt.epoch("us") / 1e6
    for form in DATE_FORMATS:
        days = series.str.to_date(form, strict=False)
        if days.len() - days.null_count() == expected:
            return days.cast(pl.Datetime("us")).dt.epoch("us") / 1e6
    return None
