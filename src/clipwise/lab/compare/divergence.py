"""Whether and where a run diverged."""

import math

import numpy as np
from numpy.typing import NDArray

from clipwise.lab.record import Evaluation, RunRecord

__all__ = ["BLOWN_UP", "Floats", "column", "diverged_at", "final_loss", "finite", "usable"]

Floats = NDArray[np.float64]

BLOWN_UP = 10.0
"""A loss that stays above this many times the loss of the first step has blown up."""

FINAL_SHARE = 0.05
"""The share of the last steps over which the final training loss is taken."""


def column(record: RunRecord, name: str) -> Floats:
    """One column of the steps as an array."""
    return np.asarray(record.steps.get(name, []), dtype=np.float64)


def final_loss(loss: Floats) -> float:
    """The median of the last 5 % of the losses."""
    if not len(loss):
        return math.nan
    return float(np.median(loss[-max(1, round(FINAL_SHARE * len(loss))) :]))


def finite(values: Floats) -> Floats:
    """The values that are neither NaN nor infinite."""
    return values[np.isfinite(values)]


def usable(evaluation: Evaluation, metric: str) -> bool:
    """Whether the model could still be evaluated: its metric, and the held-out loss if any, are finite."""
    values = evaluation.metrics
    return math.isfinite(values.get(metric, math.nan)) and math.isfinite(values.get("loss", 0.0))


def diverged_at(record: RunRecord) -> int | None:
    """The step from which on, to the end, the loss was never again finite and near where it began.

    Near is at most 10 times the first finite loss. A single bad batch at the end is no divergence where the
    model is still sound after it; weights that the last step broke are one. None where it did not diverge.
    """
    loss = column(record, "loss")
    if not len(loss):
        return None
    known = finite(loss)
    limit = BLOWN_UP * abs(float(known[0])) if len(known) else math.inf
    bad = ~(np.isfinite(loss) & (loss <= limit))
    if not bad[-1]:
        return _broken_at_the_end(record, len(loss))
    if np.isfinite(loss[-1]) and final_loss(loss) <= limit:
        return None  # one spike at the very end
    if not np.isfinite(loss[-1]) and _sound_at_the_end(record, limit):
        return None  # one bad batch at the very end: its step was skipped
    good = np.flatnonzero(~bad)
    return int(good[-1]) + 2 if len(good) else 1


def _last_look(record: RunRecord, steps: int) -> Evaluation | None:
    """The evaluation after the last step, if there was one."""
    last = record.evaluations[-1] if record.evaluations else None
    return last if last is not None and last.step >= steps else None


def _sound_at_the_end(record: RunRecord, limit: float) -> bool:
    last = _last_look(record, len(record.steps["loss"]))
    return last is not None and usable(last, record.metric) and last.metrics.get("loss", math.inf) <= limit


def _broken_at_the_end(record: RunRecord, steps: int) -> int | None:
    """The last step, where its update broke the weights: its own loss, taken before that, looks innocent."""
    last = _last_look(record, steps)
    return steps if last is not None and not usable(last, record.metric) else None
