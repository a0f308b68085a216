"""Runs, alerts and series as JSON for the page; NaN and Inf become words or gaps."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipwise.dashboard.thinning import KINDS, averaged, running_mean, thin
from clipwise.monitor.store import HELD, Alert, Floats, Overview, Run, Series
from clipwise.monitor.store.plain import plain
from clipwise.monitor.suggest.multiples import Multiple

LISTED = 100
"""Alerts that the page lists, the last ones; of the others it draws the steps."""
RAW_AND_MEAN = 20
"""A running mean is over at least so many steps, and over a hundredth of them."""


def run_view(run: Run, status: str) -> dict[str, Any]:
    """A run, with its status."""
    return {
        "id": run.id,
        "name": run.name,
        "started": run.started,
        "seen": run.seen,
        "status": status,
        "steps": run.steps,
        "ranks": list(run.ranks),
        "clip": run.clip,
    }


def listed_view(one: Overview, status: str, multiple: Multiple | None) -> dict[str, Any]:
    """A run in the list of runs."""
    return run_view(one.run, status) | {
        "loss": plain(one.loss),
        "alerts": dict(one.alerts),
        "sweep": one.run.sweep,
        "notes": one.run.notes,
        "multiple": multiple and [multiple.short, str(multiple)],
    }


def alert_views(alerts: Sequence[Alert]) -> list[dict[str, Any]]:
    """Alerts in order; the most recent ones with their sentences."""
    count = max(0, len(alerts) - LISTED)
    short = [{"level": alert.level, "step": alert.step} for alert in alerts[:count]]
    return short + [_alert(alert) for alert in alerts[count:]]


def _alert(alert: Alert) -> dict[str, Any]:
    return {
        "rule": alert.rule,
        "level": alert.level,
        "step": alert.step,
        "seen": alert.seen,
        "why": alert.why,
        "advice": alert.advice,
        "rank": alert.rank,
        "time": alert.time,
    }


def series_view(
    name: str, series: Series, low: float | None, high: float | None, buckets: int
) -> dict[str, Any]:
    """A series thinned to screen size, with its running mean and its last value.

    An infinite threshold means that nothing was clipped: it becomes a gap without a mark. Times are relative
    to the first one. What held a threshold is a share: a point is the mean over its steps.
    """
    if name == "time":
        series = Series(series.steps, series.values - series.values[0])
    if name.startswith(HELD):
        line = averaged(series.steps, series.values, low, high, buckets)
        points = {"x": _steps(line.steps), "y": _numbers(line.values)}
        return _ends(series) | {"line": points, "mean": points | {"window": 1}, "marks": []}
    line = thin(series.steps, series.values, low, high, buckets)
    window = max(RAW_AND_MEAN, len(series.steps) // 100)
    mean = thin(series.steps, running_mean(series.values, window), low, high, buckets)
    marks = line.marks.tolist()
    if name.rpartition("/")[2] == "threshold":
        marks = [mark for mark in marks if KINDS[mark[1]] != "inf"]
    return _ends(series) | {
        "line": {"x": _steps(line.steps), "y": _numbers(line.values)},
        "mean": {"x": _steps(mean.steps), "y": _numbers(mean.values), "window": window},
        "marks": [[step, KINDS[kind], count] for step, kind, count in marks],
    }


def _ends(series: Series) -> dict[str, Any]:
    return {
        "count": len(series.steps),
        "first": int(series.steps[0]),
        "last": [int(series.steps[-1]), plain(float(series.values[-1]))],
    }


def _numbers(values: Floats) -> list[float | None]:
    # Seven digits are more than any screen shows, and half the bytes.
    return [float(f"{v:.7g}") if math.isfinite(v) else None for v in values.tolist()]


def _steps(steps: Floats) -> list[float]:
    whole = bool(np.all(steps == np.floor(steps)))
    found: list[float] = (steps.astype(np.int64) if whole else steps).tolist()
    return found
