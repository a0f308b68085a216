"""A column of times in the usual formats, as seconds."""

import polars as pl

from clipwise.errors import DataError

__all__ = ["times"]

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
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%m/%d/%Y",
    "%d/%m/%Y",
    "%d.%m.%Y",
)
MONTH_FIRST, DAY_FIRST = "%m/%d/", "%d/%m/"


def times(frame: pl.DataFrame, column: str, where: str, *, form: str | None = None) -> pl.Series:
    """A time column as float64: seconds for dates and times in the usual formats; numbers stay as they are.

    Args:
        frame: the table.
        column: its time column.
        where: description of the table for messages.
        form: the format, if it is known; it decides whether ``1/2/2011`` is in January.

    Raises:
        DataError: a value is missing or has an unknown format, or dates with slashes are ambiguous between
            day first and month first.
    """
    series = frame[column]
    if series.dtype.is_numeric():
        values = series.cast(pl.Float64)
    else:
        values = _parse(
            series, (form,) if form else FORMATS, f"{where}: column {column!r} (data.time_column)"
        )
    if values.null_count() or values.is_nan().any():
        raise DataError(f"{where}: column {column!r} (data.time_column) has rows without a time")
    return values


def _parse(series: pl.Series, forms: tuple[str, ...], where: str) -> pl.Series:
    """The column in the first format that fits every value; the error names one that the best does not."""
    best = None
    if series.dtype == pl.String:
        for form in forms:
            found = _read(series, form)
            if found.null_count() == series.null_count():
                if len(forms) > 1 and MONTH_FIRST in form:
                    _refuse_ambiguous(series, form, found, where)
                return found
            if best is None or found.null_count() < best.null_count():
                best = found
        # A column of numbers with one that is none is text too.
        found = series.cast(pl.Float64, strict=False)
        if best is None or found.null_count() < best.null_count():
            best = found
    wrong = series.is_not_null() if best is None else series.is_not_null() & best.is_null()
    row = wrong.arg_max()
    got = (
        f"got {series[row]!r} in row {row + 1} below the header"
        if row is not None and wrong[row]
        else "got nothing"
    )
    raise DataError(f"{where} must be numbers or times such as 2011-12-09 12:50, {got}")


def _read(series: pl.Series, form: str) -> pl.Series:
    """Seconds; null where a value has another format."""
    if "%H" in form:
        moments = series.str.to_datetime(form, strict=False, time_unit="us")
    else:
        moments = series.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    return moments.dt.epoch("us") / 1e6


def _refuse_ambiguous(series: pl.Series, form: str, found: pl.Series, where: str) -> None:
    """A column that fits with the day first too means other days then; a guess would go unseen."""
    other = _read(series, form.replace(MONTH_FIRST, DAY_FIRST))
    if other.null_count() > found.null_count() or not (differs := other != found).any():
        return
    row = differs.arg_max() or 0
    raise DataError(
        f"{where} may have the month or the day first, as {series[row]!r} in row {row + 1} below the header;"
        " write dates as YYYY-MM-DD"
    )
