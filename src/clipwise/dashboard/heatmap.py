"""A heat map of layer norms over time, as a grid of screen size with the largest norm in each cell."""

import base64
from typing import Any

import numpy as np

from clipwise.monitor.store import Floats, Layers

ABSENT, ZERO, BAD = 0, 1, 65535
"""Codes of cells without a logarithm; the others are 2 to 65534, linear in the logarithm."""


def grid(layers: Layers, low: float, high: float, columns: int) -> tuple[Any, Floats]:
    """The first step of each column, ``(c,)``, and the largest norm in each cell, ``(m, c)``.

    Up to ``columns`` recorded steps, each step is a column; more are combined into columns of equal width. A
    cell is Inf if a norm was NaN or Inf, and NaN if nothing was recorded.

    Args:
        layers: norms recorded up to ``high``; those before ``low`` fall into the first column.
        low, high: the range of steps.
        columns: largest number of columns.
    """
    steps, norms, absent = layers.steps, layers.norms, layers.absent
    if not len(steps):
        return steps.astype(np.int64), np.zeros((len(layers.names), 0))
    width = max(high - low, 1.0) / columns
    part = np.clip(((steps - low) / width).astype(np.int64), 0, columns - 1)
    if _distinct(steps) <= columns:
        part = np.cumsum(np.diff(steps, prepend=steps[0]) > 0)
    starts = np.flatnonzero(np.diff(part, prepend=-1))
    known = np.where(absent, np.nan, np.where(np.isfinite(norms), norms, np.inf))
    return steps[starts], np.fmax.reduceat(known, starts, axis=0).T


def heat_view(
    layers: Layers, names: list[str], low: float | None, high: float, columns: int
) -> dict[str, Any]:
    """The data for the page: names, first steps of the columns, and the cells as 16-bit codes in base64.

    The code of a norm v > 0 is ``2 + 65532 * (log(v) - log(least)) / (log(largest) - log(least))``, rounded.

    Args:
        layers: layer norms of the run.
        names: the parameters to show, in order.
        low, high: the range of steps; None: from the first recorded one, to the last.
        columns: largest number of columns.
    """
    place = {name: i for i, name in enumerate(layers.names)}
    which = np.asarray([place[name] for name in names], dtype=np.intp)
    # Rows of another source have nothing of these.
    rows = np.flatnonzero(~layers.absent[:, which].all(axis=1))
    steps = layers.steps[rows]
    if low is None:
        low = float(steps[0]) if len(steps) else 0.0
    # What was recorded before the range still holds at its beginning.
    first = max(0, int(np.searchsorted(steps, low, "left")) - 1)
    here = rows[first : int(np.searchsorted(steps, high, "right"))]
    cut = np.ix_(here, which)
    part = Layers(layers.steps[here], tuple(names), layers.norms[cut], layers.absent[cut])
    starts, cells = grid(part, low, high, columns)
    drawn = cells[np.isfinite(cells) & (cells > 0)]
    least, largest = (float(drawn.min()), float(drawn.max())) if len(drawn) else (1.0, 1.0)
    span = np.log(largest) - np.log(least) or 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = np.rint(2 + 65532 * (np.log(cells) - np.log(least)) / span)
    codes = np.select(
        [np.isnan(cells), np.isinf(cells), cells == 0], [ABSENT, BAD, ZERO], np.clip(scaled, 2, 65534)
    )
    return {
        "names": names,
        "starts": starts.tolist(),
        # Whether each column is a recorded step, and not several of them.
        "single": len(starts) >= _distinct(part.steps[part.steps >= low]),
        "recorded": _distinct(steps),
        "least": least,
        "largest": largest,
        "cells": base64.b64encode(codes.astype("<u2").tobytes()).decode("ascii"),
    }


def _distinct(steps: Any) -> int:
    """How many different ones there are among steps in ascending order."""
    return int(np.count_nonzero(np.diff(steps))) + bool(len(steps))
