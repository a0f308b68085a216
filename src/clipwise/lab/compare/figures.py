"""The figures of a run, computed from its record.

Only arithmetic on a `RunRecord`; nothing is drawn or printed. A run that diverged keeps its place in every
figure: what cannot be computed is NaN, and over several seeds NaN counts as the worst value.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from clipwise.lab.compare.divergence import column, diverged_at, finite, usable
from clipwise.lab.record import Evaluation, RunRecord
from clipwise.monitor.store import Floats
from clipwise.monitor.suggest.divergence import final_loss

__all__ = [
    "DEFINITIONS",
    "Figures",
    "error",
    "error_reduction",
    "find_target",
    "measure",
    "spikes",
]

CLOSE = 1.10
"""Runs whose final error is at most this many times the best one count for the automatic target."""

DEFINITIONS = {
    "final": "held-out metric at the last evaluation; NaN where the run diverged before it",
    "best": "best held-out metric of all evaluations, before it diverged if it did, and the step of it",
    "error_reduction": (
        "(e0 - e) / e0 * 100 with e the final metric of the run and e0 that of the run without clipping and"
        " the same seed; where more of a metric is better, e = 1 - metric; undefined where a run diverged or"
        " was interrupted"
    ),
    "final_loss": "median training loss of the last 5 % of the steps",
    "steps_to_target": "step of the first evaluation that reached the target; never, if none did",
    "seconds_to_target": "seconds of training until then, evaluation time left out",
    "norm": "norm of all gradients together before clipping: median, 95th percentile and largest finite one,"
    " this of all seeds",
    "threshold": "median over the steps of what the norm could not exceed",
    "clipped_steps": "share of the steps in which anything was clipped",
    "clip_fraction": "mean share of the groups (whole gradient, tensors, units or entries) that were clipped",
    "spikes": (
        "steps whose loss lies above median + 5 * max(1.4826 * MAD, 1 % of the median) of the 100 finite"
        " losses before it (at least 20)"
    ),
    "nonfinite_steps": "steps whose loss or gradient was NaN or infinite; skipped_steps were not taken",
    "roughness": "mean |loss[t] - loss[t-1]| over consecutive finite losses, divided by their median",
    "diverged": (
        "the loss was not finite at the end, or stayed above 10 times the loss of the first step;"
        " diverged_at is the step from which on it did"
    ),
}
"""What each figure means, in one sentence; shown on the page."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one run. `DEFINITIONS` defines each; steps are counted from 1."""

    label: str
    clip: str | None
    role: str
    seed: int
    metric: str
    lower_is_better: bool
    steps: int
    seconds: float
    interrupted: bool
    multiple: str | None = None
    diverged_at: int | None
    first_loss: float
    final_loss: float
    last_loss: float
    final: float
    best: float
    best_step: int | None
    error_reduction: float | None
    target: float | None
    steps_to_target: int | None
    seconds_to_target: float | None
    norm_median: float
    norm_p95: float
    norm_max: float
    threshold: float
    clipped_steps: float
    clip_fraction: float
    spikes: int
    nonfinite_steps: int
    skipped_steps: int
    roughness: float
    held_out: dict[str, float] = field(default_factory=dict)

    @property
    def diverged(self) -> bool:
        return self.diverged_at is not None

    @property
    def learned(self) -> bool:
        """Whether the training loss ended below its first value."""
        return not self.diverged and self.final_loss < self.first_loss


def measure(record: RunRecord, *, baseline: RunRecord | None = None, target: float | None = None) -> Figures:
    """All figures of one run.

    Args:
        record: the run.
        baseline: the run without clipping and with the same seed, for the error reduction.
        target: a value of the held-out metric; the first step that reaches it is a figure.
    """
    loss, norm = column(record, "loss"), column(record, "norm")
    at = diverged_at(record)
    reached = _reached(record, target)
    best = _best(record, at)
    finite_norm = norm[np.isfinite(norm)]
    fraction = finite(column(record, "clip_fraction"))
    threshold = column(record, "threshold")
    threshold = threshold[~np.isnan(threshold)]
    finite_loss = finite(loss)
    return Figures(
        label=record.label,
        clip=record.clip,
        role=record.role,
        seed=record.seed,
        metric=record.metric,
        lower_is_better=record.lower_is_better,
        steps=len(loss),
        seconds=record.seconds,
        interrupted=record.interrupted,
        multiple=record.multiple,
        diverged_at=at,
        first_loss=float(finite_loss[0]) if len(finite_loss) else math.nan,
        final_loss=final_loss(loss),
        last_loss=float(loss[-1]) if len(loss) else math.nan,
        final=_final(record, at),
        best=math.nan if best is None else best.metrics[record.metric],
        best_step=None if best is None else best.step,
        error_reduction=None if baseline is None else _reduction(baseline, record),
        target=target,
        steps_to_target=None if reached is None else reached.step,
        seconds_to_target=None if reached is None else reached.seconds,
        norm_median=_quantile(finite_norm, 50),
        norm_p95=_quantile(finite_norm, 95),
        norm_max=_quantile(finite_norm, 100),
        threshold=float(np.median(threshold)) if len(threshold) else math.nan,
        clipped_steps=float(np.mean(fraction > 0)) if len(fraction) else math.nan,
        clip_fraction=float(np.mean(fraction)) if len(fraction) else math.nan,
        spikes=int(spikes(loss).sum()),
        nonfinite_steps=_nonfinite_steps(record, loss, norm),
        skipped_steps=record.skipped_steps,
        roughness=_roughness(loss),
        held_out=dict(record.final),
    )


def error(value: float, *, lower_is_better: bool) -> float:
    """The error: the metric, or 1 - metric if a higher one is better (accuracy, F1, AUC)."""
    return value if lower_is_better else 1.0 - value


def error_reduction(base: float, value: float, *, lower_is_better: bool) -> float | None:
    """Reduction of the error in per cent: ``(e0 - e) / e0 * 100``; negative if the error rose.

    None if it is undefined: a value is not finite, or there was no error to reduce.

    >>> error_reduction(8.0, 2.0, lower_is_better=True)
    75.0
    >>> error_reduction(0.5, 0.75, lower_is_better=False)
    50.0
    >>> error_reduction(float("nan"), 2.0, lower_is_better=True) is None
    True
    """
    e0, e = (error(x, lower_is_better=lower_is_better) for x in (base, value))
    if not (math.isfinite(e0) and math.isfinite(e)):
        return None
    if e0 <= 0:
        return 0.0 if e == e0 else None
    return (e0 - e) / e0 * 100


def find_target(records: Iterable[RunRecord]) -> float | None:
    """A value of the held-out metric that every good run reached.

    It is the worst final value among the runs whose final error is at most 1.1 times the best one. So the
    time to the target can be compared for all good runs, and the others never reach it. None if all runs
    diverged.
    """
    finals = []
    lower = True
    for record in records:
        lower = record.lower_is_better
        at = diverged_at(record)
        value = _final(record, at)
        if at is None and not record.interrupted and math.isfinite(value):
            finals.append(value)
    if not finals:
        return None
    errors = [error(value, lower_is_better=lower) for value in finals]
    bound = max(min(errors), min(errors) * CLOSE)
    close = [value for value, e in zip(finals, errors, strict=True) if e <= bound]
    return max(close) if lower else min(close)


def spikes(
    loss: Sequence[float] | Floats, *, window: int = 100, warmup: int = 20, z: float = 5.0
) -> NDArray[np.bool_]:
    """Which losses stand out from those before them.

    ``loss[t] > median + z * max(1.4826 * MAD, 0.01 * |median|)`` of the last ``window`` finite losses before
    t; none before ``warmup`` of them. The lower limit of the deviation keeps rounding of a nearly constant
    loss from counting. A loss that is not finite is not a spike and is not added to the history; it is
    counted separately.
    """
    values = np.asarray(loss, dtype=np.float64)
    found = np.zeros(len(values), dtype=bool)
    where = np.flatnonzero(np.isfinite(values))
    finite = values[where]
    for t in range(warmup, min(window, len(finite))):
        found[where[t]] = finite[t] > _bound(finite[None, :t], z)[0]
    chunk = 10_000  # bounds the memory: 10,000 windows of 100 numbers are 8 MB
    for start in range(window, len(finite), chunk):
        stop = min(start + chunk, len(finite))
        before = np.lib.stride_tricks.sliding_window_view(finite[start - window : stop - 1], window)
        found[where[start:stop]] = finite[start:stop] > _bound(before, z)
    return found


def _bound(before: Floats, z: float) -> Floats:
    median = np.median(before, axis=1)
    with np.errstate(
        over="ignore"
    ):  # a loss near the largest float: the bound is then infinite, as it should be
        mad = np.median(np.abs(before - median[:, None]), axis=1)
        bound: Floats = median + z * np.maximum(1.4826 * mad, 0.01 * np.abs(median))
    return bound


def _quantile(values: Floats, q: float) -> float:
    return float(np.percentile(values, q)) if len(values) else math.nan


def _roughness(loss: Floats) -> float:
    known = finite(loss)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.abs(np.diff(loss))
        steps = (
            steps[~np.isnan(steps) & np.isfinite(loss[:-1]) & np.isfinite(loss[1:])] if len(loss) else steps
        )
        if not len(steps) or np.median(known) == 0:
            return math.nan
        return float(np.mean(steps) / abs(np.median(known)))


def _nonfinite_steps(record: RunRecord, loss: Floats, norm: Floats) -> int:
    bad = ~np.isfinite(loss)
    bad[: len(norm)] |= ~np.isfinite(norm[: len(bad)])
    counted = column(record, "nonfinite")
    bad[: len(counted)] |= counted[: len(bad)] > 0
    return int(bad.sum())


def _final(record: RunRecord, at: int | None) -> float:
    if not record.evaluations:
        return math.nan
    last = record.evaluations[-1]
    if at is not None and last.step < at:
        return math.nan  # evaluated before it diverged: not what the run ended with
    return last.metrics.get(record.metric, math.nan)


def _best(record: RunRecord, at: int | None) -> Evaluation | None:
    before = math.inf if at is None else at
    sound = [e for e in record.evaluations if e.step < before and usable(e, record.metric)]
    if not sound:
        return None
    return min(sound, key=lambda e: error(e.metrics[record.metric], lower_is_better=record.lower_is_better))


def _reached(record: RunRecord, target: float | None) -> Evaluation | None:
    if target is None:
        return None
    goal = error(target, lower_is_better=record.lower_is_better)
    for evaluation in record.evaluations:
        value = evaluation.metrics.get(record.metric, math.nan)
        if usable(evaluation, record.metric) and error(value, lower_is_better=record.lower_is_better) <= goal:
            return evaluation
    return None


def _reduction(baseline: RunRecord, record: RunRecord) -> float | None:
    values = []
    for run in (baseline, record):
        at = diverged_at(run)
        if at is not None or run.interrupted:
            return None  # a per cent of a blown-up or unfinished number says nothing
        values.append(_final(run, at))
    return error_reduction(*values, lower_is_better=record.lower_is_better)
