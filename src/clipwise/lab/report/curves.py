"""The curves of the picture: each run until it diverged, smoothed, and the median over seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipwise.dashboard.thinning import thin
from clipwise.lab.compare.divergence import diverged_at
from clipwise.lab.record import RunRecord
from clipwise.monitor.store import Floats

__all__ = [
    "Curve",
    "DrawnClip",
    "held_out",
    "limits",
    "middle",
    "smooth",
    "step_curve",
    "thinned",
    "until_divergence",
]

POINTS = 4000
"""More points than pixels only cost time."""


@dataclass(frozen=True)
class Curve:
    """Values over steps; not finite where nothing is drawn."""

    steps: NDArray[Any]
    values: Floats


@dataclass(frozen=True)
class DrawnClip:
    """The runs of one clip, each cut where it diverged, with their colour, dashes and marker."""

    label: str
    role: str
    colour: str
    dash: Any
    mark: str
    runs: tuple[RunRecord, ...]
    diverged_at: tuple[int | None, ...]


def until_divergence(run: RunRecord) -> tuple[RunRecord, int | None]:
    """The run up to the step at which it diverged (included), and that step; the whole run if it did not.

    Later values span many powers of ten and would flatten everything else.
    """
    at = diverged_at(run)
    if at is None:
        return run, None
    steps = {name: values[:at] for name, values in run.steps.items()}
    evaluations = [e for e in run.evaluations if e.step < at]
    return replace(run, steps=steps, evaluations=evaluations), at


def held_out(run: RunRecord) -> Curve:
    """The held-out metric at each evaluation."""
    values = [e.metrics.get(run.metric, math.nan) for e in run.evaluations]
    return Curve(
        np.array([e.step for e in run.evaluations], dtype=np.int64), np.array(values, dtype=np.float64)
    )


def step_curve(run: RunRecord, column: str) -> Curve:
    """One column of the steps; infinite values are not drawn."""
    values = np.asarray(run.steps[column], dtype=np.float64)
    return Curve(np.arange(1, len(values) + 1), np.where(np.isinf(values), np.nan, values))


def thinned(curve: Curve) -> Curve:
    """As many points as a screen can show, without losing a spike."""
    few = thin(curve.steps, curve.values, buckets=POINTS // 4)
    return Curve(few.steps, few.values)


def smooth(curve: Curve) -> Curve:
    """Running median of the finite values over a fortieth of the run; thinned for a long run."""
    every = max(1, len(curve.values) // POINTS)
    curve = Curve(curve.steps[::every], curve.values[::every])
    window = len(curve.values) // 40
    if window < 2:
        return curve
    padded = np.concatenate([np.full(window - 1, np.nan), curve.values])
    view = np.lib.stride_tricks.sliding_window_view(padded, window)
    known = ~np.isnan(view).all(axis=1)
    values = np.full(len(curve.values), np.nan)
    values[known] = np.nanmedian(view[known], axis=1)
    return Curve(curve.steps, values)


def middle(curves: Sequence[Curve], *, missing: float = math.inf) -> Curve:
    """The median over the seeds; a seed without a value at a step counts as ``missing``, the worst value.

    So the line ends where half of the seeds have diverged, and is not biased towards the survivors.
    """
    if len(curves) == 1:
        return curves[0]
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    rows = np.full((len(curves), len(steps)), missing)
    for row, curve in zip(rows, curves, strict=True):
        row[np.searchsorted(steps, curve.steps)] = np.where(np.isnan(curve.values), missing, curve.values)
    median = np.median(rows, axis=0)
    return Curve(steps, np.where(np.isfinite(median), median, np.nan))


def limits(curves: Sequence[Curve], low: float = 0.0, high: float = 100.0) -> tuple[float, float] | None:
    """The given percentiles of all finite values; None if there are none."""
    values = np.concatenate([curve.values for curve in curves]) if curves else np.zeros(0)
    values = values[np.isfinite(values)]
    return (float(np.percentile(values, low)), float(np.percentile(values, high))) if len(values) else None
