"""Dask frames: each partition is sketched where it is, and only the sketches are sent."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from clipwise.data._column_sketch import ColumnSketch
from clipwise.data._extra import load
from clipwise.data._rule import BoundsRule
from clipwise.data._statistics import ColumnStatistics, sketch_size
from clipwise.data._table import refuse_empty


def dask_statistics(
    frame: Any, names: Sequence[Any], rule: BoundsRule, rank_error: float
) -> dict[Any, ColumnStatistics]:
    """The statistics that the bounds of each column of a Dask frame follow from."""
    dask = load("dask")
    size = sketch_size(rank_error)
    parts = [dask.delayed(_sketched)(part, size) for part in frame[list(names)].to_delayed()]
    sketches = reduce(_merged, dask.compute(*parts))
    found = {}
    for name, sketch in zip(names, sketches, strict=True):
        refuse_empty(name, sketch.finite)
        found[name] = ColumnStatistics(*sketch.statistics(rule), *sketch.extremes)
    return found


def _sketched(part: Any, size: int) -> list[ColumnSketch]:
    sketches = [ColumnSketch(size) for _ in part.columns]
    for i, sketch in enumerate(sketches):
        sketch.update(part.iloc[:, i].to_numpy(dtype=np.float64, na_value=np.nan))
    return sketches


def _merged(sketches: list[ColumnSketch], others: list[ColumnSketch]) -> list[ColumnSketch]:
    for sketch, other in zip(sketches, others, strict=True):
        sketch.merge(other)
    return sketches
