"""Trials with any training script under ``clipwise observe``; the metric is read from its output or log."""

import itertools
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor.store import Store
from clipwise.namespace import Array
from clipwise.tune.space import NONE, Candidate
from clipwise.tune.study import TrialFailed

RATE = "{rate}"
LAST = 0.1
"""The share of a recorded series whose median is the value: a loss of single batches is noisy."""
LOOK = 1.0
"""Seconds between two looks at a trial that is under way."""
FIRST = 32
"""Recorded steps before a trial is first compared with the others; then twice as many, and so on."""
PATIENCE = 10.0
"""Seconds that a trial has to end when it is told to."""
INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended."""
TAIL = 12
"""Lines of the output that an error shows."""


class ScriptObjective:
    """Runs a command under ``clipwise observe`` with a clip.

    Args:
        command: as for ``clipwise observe``; ``{rate}`` in an argument is the learning rate of the trial.
        metric: the name of a recorded series (``loss``), whose last tenth counts, or a regular expression
            with one group, whose last match in the output is the value.
        db: the recording.
        folder: for the outputs of the trials.
        search: name of the search, with which the names of its runs begin.
        lower_is_better: whether a lower metric is better.

    Attributes:
        name: name of the metric for people.

    Raises:
        ArgumentError: the metric is not a valid regular expression, or does not have exactly one group.
    """

    def __init__(
        self,
        command: Sequence[str],
        metric: str,
        db: Path,
        folder: Path,
        *,
        search: str = "",
        lower_is_better: bool = True,
    ) -> None:
        self._command, self._metric, self._db, self._folder = list(command), metric, db, folder
        self._prefix = f"{search}, " if search else ""
        self._worst = math.inf if lower_is_better else -math.inf
        self.name = metric.partition("(")[0].strip(" :=\\") or metric
        self._pattern: re.Pattern[str] | None = None
        if not re.fullmatch(r"[\w./ -]+", metric):
            try:
                self._pattern = re.compile(metric)
            except re.error as error:
                raise ArgumentError(f"the metric {metric!r} is not a regular expression: {error}") from error
            if self._pattern.groups != 1:
                raise ArgumentError(
                    f"the metric {metric!r} must have one group, such as 'val_loss: ([0-9.]+)', and has"
                    f" {self._pattern.groups}"
                )

    def __call__(self, chosen: Candidate, number: int, report: Callable[[int, float], None]) -> float:
        self._folder.mkdir(parents=True, exist_ok=True)
        name, output = f"{self._prefix}trial {number}: {chosen.clip}", self._folder / f"trial-{number}.log"
        before = self._newest()
        words = ["observe", "--db", str(self._db), "--run", name]
        words += [] if chosen.clip == NONE else ["--clip", chosen.clip]
        rate = "" if chosen.rate is None else f"{chosen.rate:g}"
        command = [word.replace(RATE, rate) for word in self._command]
        with output.open("wb") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "clipwise", *words, "--", *command],
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        code = self._watched(child, lambda: self._on_the_way(name, output, before), report)
        text = output.read_text(encoding="utf-8", errors="replace")
        if code in (INTERRUPTED, -signal.SIGINT):
            raise KeyboardInterrupt
        if code:
            said = "\n".join(text.splitlines()[-TAIL:])
            raise TrialFailed(f"the command ended with {code} (all of it in {output}):\n{said}")
        return self._printed(text, output) if self._pattern is not None else self._recorded(name, before)

    def _watched(
        self,
        child: "subprocess.Popen[bytes]",
        values: Callable[[], list[float]],
        report: Callable[[int, float], None],
    ) -> int:
        """Its exit code; ended where a value on the way shows that it is hopeless."""
        told = 0
        try:
            while True:
                try:
                    return child.wait(LOOK)
                except subprocess.TimeoutExpired:
                    found = values()
                for place in range(told, len(found)):
                    report(place, found[place])
                told = max(told, len(found))
        except KeyboardInterrupt:  # the terminal has told the child, too
            _end(child, ask=False)
            raise
        except BaseException:  # hopeless, or the storage or the recording cannot be used
            _end(child, ask=True)
            raise

    def _on_the_way(self, name: str, output: Path, before: int = 0) -> list[float]:
        """What is known of a trial so far, to be compared place by place with that of others."""
        if self._pattern is not None:
            text = output.read_text(encoding="utf-8", errors="replace")
            printed = [_number(found) for found in self._pattern.findall(text)]
            return [self._comparable(value) for value in printed if value is not None]
        values = self._series(name, before)
        counts = (FIRST << k for k in range(64))
        there = itertools.takewhile(lambda n: n <= len(values), counts)
        return [self._comparable(_last(values[:n])) for n in there]

    def _comparable(self, value: float) -> float:
        """The value on the way; the worst one where it is infinite. NaN stays, and is not compared."""
        return self._worst if math.isinf(value) else value

    def _printed(self, text: str, output: Path) -> float:
        assert self._pattern is not None
        found = self._pattern.findall(text)
        if not found:
            raise TrialFailed(f"nothing in the output matches the metric {self._metric!r}: see {output}")
        value = _number(found[-1])
        if value is None:
            raise TrialFailed(f"{self._metric!r} found {found[-1]!r}, which is not a number")
        return value if math.isfinite(value) else self._worst

    def _recorded(self, name: str, before: int = 0) -> float:
        try:
            values = self._series(name, before, missing_ok=False)
        except (StoreError, StopIteration) as error:
            raise TrialFailed(f"the command recorded no step of an optimizer ({error})") from error
        if len(values):
            value = _last(values)
            return value if math.isfinite(value) else self._worst
        raise TrialFailed(
            f"nothing called {self._metric!r} was recorded: give --metric the name of what the script logs,"
            " or a regular expression of its output"
        )

    def _newest(self) -> int:
        """The number of the newest run: those of a trial that is about to begin come after it."""
        try:
            with Store(self._db) as store:
                return max((run.id for run in store.runs()), default=0)
        except StoreError:  # there is no recording yet
            return 0

    def _series(self, name: str, before: int, *, missing_ok: bool = True) -> Array:
        """The metric as a run of this name has recorded it, of its first source that has some.

        Args:
            name: of the run.
            before: number of the newest run before it; an older one of this name is another search's.
            missing_ok: whether there may be no such run.
        """
        try:
            with Store(self._db) as store:
                run = next(one for one in reversed(store.runs()) if one.id > before and one.name == name)
                for source in dict.fromkeys(["", *store.sources(run.id)]):
                    series = store.series(run.id, [self._metric], source).get(self._metric)
                    if series is not None and len(series.values):
                        return series.values
        except (StoreError, StopIteration):
            if not missing_ok:
                raise
        return np.zeros(0)


def _last(values: Array) -> float:
    """The median of the last tenth."""
    return float(np.median(values[-max(1, int(LAST * len(values))) :]))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _end(child: "subprocess.Popen[bytes]", *, ask: bool) -> None:
    """Ended as with Ctrl-C, so that it can write what it has; by force where that does not help."""
    if ask and os.name == "posix":
        child.send_signal(signal.SIGINT)
    elif ask:
        child.terminate()
    for force in (child.terminate, child.kill):
        try:
            child.wait(PATIENCE)
            return
        except subprocess.TimeoutExpired:
            force()
    child.wait()
