"""Dask's frames: a sketch of each partition is made where it lies, and only the sketches travel."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from clipwise.data._extra import load
from clipwise.data._rule import Rule
from clipwise.data._statistics import sketch_size
from clipwise.data._stream import Stream
from clipwise.errors import ArgumentError

__all__ = ["dask_figures"]


def dask_figures(
    frame: Any, names: Sequence[str], rule: Rule, rank_error: float
) -> dict[str, tuple[float, float]]:
    """The two figures of `Rule.interval` for each column of a Dask frame."""
    dask = load("dask")
    size = sketch_size(rank_error)
    parts = [dask.delayed(_sketched)(part, size) for part in frame[list(names)].to_delayed()]
    streams = reduce(_merged, dask.compute(*parts))
    for name, stream in zip(names, streams, strict=True):
        if not stream.finite:
            raise ArgumentError(f"column {name!r} is empty: it holds no finite number to learn bounds from")
    return {name: stream.figures(rule) for name, stream in zip(names, streams, strict=True)}


def _sketched(part: Any, size: int) -> list[Stream]:
    streams = [Stream(size) for _ in part.columns]
    for i, stream in enumerate(streams):
        stream.update(part.iloc[:, i].to_numpy(dtype=np.float64, na_value=np.nan))
    return streams


def _merged(streams: list[Stream], others: list[Stream]) -> list[Stream]:
    for stream, other in zip(streams, others, strict=True):
        stream.merge(other)
    return streams
