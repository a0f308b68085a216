"""Tables from CSV files, with clear errors for what is missing."""

import io
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from clipwise.errors import DataError, did_you_mean
from clipwise.lab.data.files import read_file

__all__ = ["numbers", "read_csv", "require_columns"]

MISSING = ["", "NA", "N/A", "n/a", "N/a", "n/A", "NaN", "nan", "null", "NULL", "None", "?"]
"""What counts as a missing value in a CSV file."""


def read_csv(path: Path, *, text_columns: Sequence[str] = ()) -> pl.DataFrame:
    """The table in a ``.csv``, ``.csv.gz`` or ``.csv.xz`` file with a header line.

    Args:
        path: the file.
        text_columns: columns that stay text even if they look like numbers, such as keys.

    Raises:
        DataError: the file does not exist, is empty or binary, or is not a table.
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
    content = read_file(path)
    if not content.strip():
        raise DataError(f"{path}: the file is empty")
    if b"\0" in content[:65536]:
        raise DataError(f"{path}: a binary file, expected a CSV table")
    return content


def require_columns(frame: pl.DataFrame, columns: Sequence[tuple[str, str]], where: str) -> None:
    """Check that each column of ``(key, column)`` exists; ``key`` is the setting that names it."""
    for key, column in columns:
        if column not in frame.columns:
            raise DataError(
                f"{where}: no column {column!r} (data.{key}). {did_you_mean(column, frame.columns)}"
            )


def numbers(frame: pl.DataFrame, key: str, column: str, where: str) -> pl.Series:
    """A column as float64, with missing and infinite values as null; DataError if it is not numeric."""
    series = frame[column]
    values = series.cast(pl.Float64, strict=False) if _is_like_numbers(series.dtype) else None
    wrong = series.is_not_null() if values is None else series.is_not_null() & values.is_null()
    row = wrong.arg_max()
    if row is not None and wrong[row]:
        # One word makes text of a whole column: it has to be found, not the first value.
        seen = f"it holds {series[row]!r} in row {row + 1} below the header"
        raise DataError(f"{where}: column {column!r} (data.{key}) must be numbers, {seen}")
    if values is None or (series.dtype == pl.String and values.null_count() == len(values)):
        raise DataError(f"{where}: column {column!r} (data.{key}) must be numbers, it holds nothing")
    return values.to_frame().select(pl.when(pl.col(column).is_finite()).then(pl.col(column))).to_series()


def _is_like_numbers(dtype: pl.DataType) -> bool:
    return dtype == pl.Boolean or dtype == pl.String or dtype.is_numeric()
