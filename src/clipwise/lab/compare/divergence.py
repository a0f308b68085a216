"""Whether and where a run diverged, judged by its losses and its held-out metrics."""

import math

import numpy as np

from clipwise.lab.record import Evaluation, RunRecord
from clipwise.monitor.store import Floats
from clipwise.monitor.suggest.divergence import diverged, highest

__all__ = ["column", "diverged_at", "finite", "usable"]


def column(record: RunRecord, name: str) -> Floats:
    """One column of the steps as an array."""
    return np.asarray(record.steps.get(name, []), dtype=np.float64)


def finite(values: Floats) -> Floats:
    """The values that are neither NaN nor infinite."""
    return values[np.isfinite(values)]


def usable(evaluation: Evaluation, metric: str) -> bool:
    """Whether the model could still be evaluated: its metric (and held-out loss, if any) is finite."""
    values = evaluation.metrics
    return math.isfinite(values.get(metric, math.nan)) and math.isfinite(values.get("loss", 0.0))


def diverged_at(record: RunRecord) -> int | None:
    """The step from which on the loss had diverged, see `clipwise.monitor.suggest.divergence.diverged`.

    If only the last step's update broke the weights, it is the last step, although its loss, computed before
    that, is normal. None if the run did not diverge.
    """
    loss = column(record, "loss")
    if not len(loss):
        return None
    last = record.evaluations[-1] if record.evaluations else None
    if last is None or last.step < len(loss):  # nobody looked at the model after the last step
        at = diverged(loss)
        return None if at is None else at + 1
    works = usable(last, record.metric)
    sound = works and last.metrics.get("loss", math.inf) <= highest(loss)
    at = diverged(loss, sound=sound)
    if at is not None:
        return at + 1
    return None if works else len(loss)
