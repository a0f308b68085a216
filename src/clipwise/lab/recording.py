"""A run of the lab in a recording: what is logged under which name, and the record that is read back."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

import numpy as np

from clipwise.clip import AnyClip
from clipwise.errors import StoreError
from clipwise.lab.record import STEP_COLUMNS, Evaluation, RunInfo, RunRecord
from clipwise.monitor import Monitor
from clipwise.monitor.identity import Identity, identity
from clipwise.monitor.rules import default_rules
from clipwise.monitor.store import PREFIX, Run, Series, Store
from clipwise.monitor.suggest.multiples import Multiples, multiple_of_another

__all__ = ["RecordingTarget", "RunLog", "finished_runs", "record_of"]

HELD_OUT = "held_out_"
"""Stands before the names of held-out figures, one of which may be called ``loss`` as well."""

SECONDS = "seconds"
"""Seconds of training up to an evaluation, the time of evaluations left out."""

DROPPED = {"norm": math.nan, "norm_after": 0.0, "threshold": math.nan, "clip_fraction": 0.0, "nonfinite": 1.0}
"""A step that a gradient scaler dropped before the clipper saw it: its gradient was not finite."""

ENDED = ("finished", "diverged")
"""The status of a run that came to its end, whatever that was."""

INFO = tuple(each.name for each in fields(RunInfo))


@dataclass(frozen=True)
class RecordingTarget:
    """Where the runs of a call are recorded, and what is kept with each of them.

    Attributes:
        path: path of the recording.
        title: name of the configuration; each run is named after it, its clip and its seed.
        facts: further facts as JSON values, such as the settings.
    """

    path: Path
    title: str = "run"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def name(self, info: RunInfo) -> str:
        """What the run is called: what tells it from its neighbours comes first."""
        return f"{info.label}, seed {info.seed} ({self.title})"


class RunLog:
    """Records one run through a `clipwise.Monitor`.

    Alerts are only recorded and not shown, because a comparison provokes what they warn of.

    Args:
        target: where the run is recorded.
        info: facts about the run.
        clip: the clip of the gradients.

    Attributes:
        info: facts about the run.
    """

    def __init__(self, target: RecordingTarget, info: RunInfo, clip: AnyClip | None) -> None:
        self.info, self._path = info, target.path
        self._id = uuid4().hex
        self._monitor = _OwnRun(
            target.path,
            run=target.name(info),
            rules=[replace(rule, actions=("record",)) for rule in default_rules()],
            facts=asdict(info) | {"sweep": target.title} | dict(target.facts) | {"id": self._id},
        )
        if clip is not None:
            self._monitor.describe(clip)

    def step(self, step: int, loss: Any, report: Any) -> None:
        """Record a step without a host-device sync; None as report: a gradient scaler skipped the step."""
        if report is not None:
            self._monitor.record(report, step=step)
        self._monitor.log(step=step, loss=loss)

    def evaluation(self, step: int, seconds: float, figures: Mapping[str, float]) -> None:
        """Record the held-out figures after a number of steps and of seconds of training."""
        values: dict[str, Any] = {HELD_OUT + name: value for name, value in figures.items()}
        self._monitor.log(step=step, **{SECONDS: seconds} | values)

    def finish(self, *, interrupted: bool) -> RunRecord:
        """Write what is pending, and read the whole run back.

        Raises:
            StoreError: the run could not be written.
        """
        written = self._monitor.flush()
        self._monitor.close("stopped" if interrupted else None)
        if not written and self._monitor.unwritten:
            raise StoreError(f"the run {self._monitor.run!r} could not be written to {str(self._path)!r}")
        if not self._monitor.step:  # nothing was recorded, so there may be no file
            return RunRecord(**asdict(self.info), interrupted=interrupted)
        with Store(self._path) as store:
            return record_of(store, next(run for run in store.runs() if run.facts.get("id") == self._id))

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._monitor.__exit__(kind, error, trace)  # says how it ended, unless `finish` has


def record_of(store: Store, run: Run, multiples: Multiples | None = None) -> RunRecord:
    """The record of a run of the lab; for an unfinished run, up to its last recorded step.

    Args:
        store, run: the recording, and the run in it.
        multiples: cache of the gradients of other runs.

    Raises:
        StoreError: it is not a run of the lab, or a step is missing or was recorded twice.
    """
    if not set(INFO) <= run.facts.keys():
        raise StoreError(f"run {run.name!r} was not recorded by clipwise train or compare")
    ours = {column: PREFIX + column for column in (*STEP_COLUMNS[1:], "skipped")}
    names = store.names(run.id)
    held_out = [name for name in names if name.startswith(HELD_OUT)]
    series = store.series(run.id, ["loss", *ours.values(), SECONDS, *held_out])
    nothing = Series(np.zeros(0, dtype=np.int64), np.zeros(0))
    loss = series.get("loss", nothing)
    count = len(loss.steps)
    if not np.array_equal(loss.steps, np.arange(1, count + 1)):
        raise StoreError(f"run {run.name!r} has steps that are missing, or recorded twice")
    # What was killed may have left the report of its last step without the loss.
    beyond = any((one.steps > count).any() for one in series.values())
    if beyond and run.status in ENDED:
        raise StoreError(f"run {run.name!r} has steps without a loss")
    columns = {
        column: _at_each_step(series.get(name, nothing), count, DROPPED.get(column, 1.0))
        for column, name in ours.items()
    }
    multiple = multiple_of_another(store, run, "", multiples)
    seconds = series.get(SECONDS, nothing)
    evaluations = [
        Evaluation(step, spent, metrics)
        for step, spent in zip(seconds.steps.tolist(), seconds.values.tolist(), strict=True)
        if (metrics := _figures(series, held_out, step))
    ]
    return RunRecord(
        **{name: run.facts[name] for name in INFO},
        steps={"loss": loss.values.tolist()} | {name: columns[name].tolist() for name in STEP_COLUMNS[1:]},
        evaluations=evaluations,
        seconds=float(seconds.values[-1]) if len(seconds.values) else 0.0,
        skipped_steps=int(np.count_nonzero(columns["skipped"])),
        interrupted=run.status not in ENDED,
        multiple=None if multiple is None else str(multiple),
    )


def finished_runs(target: RecordingTarget) -> list[RunRecord]:
    """The finished runs in a recording that have the same facts, newest first."""
    if not target.path.exists() or not target.path.stat().st_size:
        return []
    multiples = Multiples()
    with Store(target.path) as store:
        return [
            record_of(store, run, multiples)
            for run in store.runs()
            if run.status in ENDED
            and set(INFO) <= run.facts.keys()
            and all(run.facts.get(name) == value for name, value in target.facts.items())
        ]


def _at_each_step(series: Series, count: int, missing: float) -> np.ndarray[Any, Any]:
    """One value a step from 1 on."""
    if len(series.steps) != len(np.unique(series.steps)):
        raise StoreError("a step was recorded twice")
    values, there = np.full(count, missing), series.steps <= count
    values[series.steps[there] - 1] = series.values[there]
    return values


def _figures(series: Mapping[str, Series], names: Sequence[str], step: int) -> dict[str, float]:
    """The held-out figures after a step."""
    found = {}
    for name in names:
        at = np.flatnonzero(series[name].steps == step)
        if len(at):
            found[name.removeprefix(HELD_OUT)] = float(series[name].values[at[0]])
    return found


class _OwnRun(Monitor):
    """A run of its own, under ``clipwise observe`` too."""

    def _identity(self, run: str | None) -> Identity:
        return identity(run)._replace(uid=uuid4().hex)
