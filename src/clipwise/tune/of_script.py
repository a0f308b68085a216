"""Trials of any training script: run under ``clipwise observe``, the metric read from what it logs."""

import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor.store import Store
from clipwise.tune.space import NONE, Candidate
from clipwise.tune.study import TrialFailed

RATE = "{rate}"
LAST = 0.1
"""The share of a recorded series whose median is the value: a loss of single batches is noisy."""
TAIL = 12
"""Lines of the output that an error shows."""


class ScriptObjective:
    """Runs a command with a clip put into it.

    Args:
        command: as for ``clipwise observe``; ``{rate}`` in a word is the learning rate of the trial.
        metric: the name of a recorded series (``loss``), whose last tenth counts, or a regular expression
            with one group, whose last match in the output is the value.
        db: the recording.
        folder: for the outputs of the trials.

    Attributes:
        name: what people call the metric.

    Raises:
        ArgumentError: the metric is no regular expression, or has not one group.
    """

    def __init__(self, command: Sequence[str], metric: str, db: Path, folder: Path) -> None:
        self._command, self._metric, self._db, self._folder = list(command), metric, db, folder
        self.name = metric.partition("(")[0].strip(" :=\\") or metric
        self._pattern: re.Pattern[str] | None = None
        if not re.fullmatch(r"[\w./ -]+", metric):
            try:
                self._pattern = re.compile(metric)
            except re.error as error:
                raise ArgumentError(f"the metric {metric!r} is no regular expression: {error}") from error
            if self._pattern.groups != 1:
                raise ArgumentError(
                    f"the metric {metric!r} must have one group, such as 'val_loss: ([0-9.]+)', and has"
                    f" {self._pattern.groups}"
                )

    def __call__(self, chosen: Candidate, number: int, report: Callable[[int, float], None]) -> float:
        self._folder.mkdir(parents=True, exist_ok=True)
        name, output = f"trial {number}: {chosen.clip}", self._folder / f"trial-{number}.log"
        words = ["observe", "--db", str(self._db), "--run", name]
        words += [] if chosen.clip == NONE else ["--clip", chosen.clip]
        rate = "" if chosen.rate is None else f"{chosen.rate:g}"
        command = [word.replace(RATE, rate) for word in self._command]
        with output.open("wb") as file:
            done = subprocess.run(
                [sys.executable, "-m", "clipwise", *words, "--", *command],
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        text = output.read_text(encoding="utf-8", errors="replace")
        if done.returncode < 0 or done.returncode == 130:
            raise KeyboardInterrupt
        if done.returncode:
            said = "\n".join(text.splitlines()[-TAIL:])
            raise TrialFailed(f"the command ended with {done.returncode} (all of it in {output}):\n{said}")
        return self._printed(text, output) if self._pattern is not None else self._recorded(name)

    def _printed(self, text: str, output: Path) -> float:
        assert self._pattern is not None
        found = self._pattern.findall(text)
        if not found:
            raise TrialFailed(f"nothing in the output matches the metric {self._metric!r}: see {output}")
        try:
            value = float(found[-1])
        except ValueError as error:
            raise TrialFailed(f"{self._metric!r} found {found[-1]!r}, which is no number") from error
        return value if math.isfinite(value) else math.inf

    def _recorded(self, name: str) -> float:
        try:
            with Store(self._db) as store:
                run = next(one for one in reversed(store.runs()) if one.name == name)
                for source in dict.fromkeys(["", *store.sources(run.id)]):
                    series = store.series(run.id, [self._metric], source).get(self._metric)
                    if series is not None and len(series.values):
                        last = series.values[-max(1, int(LAST * len(series.values))) :]
                        value = float(np.median(last))
                        return value if math.isfinite(value) else math.inf
        except (StoreError, StopIteration) as error:
            raise TrialFailed(f"the command recorded no step of an optimizer ({error})") from error
        raise TrialFailed(
            f"nothing called {self._metric!r} was recorded: give --metric the name of what the script logs,"
            " or a regular expression of its output"
        )
