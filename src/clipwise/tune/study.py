"""The search: runs trials until there are enough, in a storage that several processes may share."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from clipwise.errors import ArgumentError, ClipwiseError, StoreError
from clipwise.extras import load
from clipwise.processes import end
from clipwise.tune.space import Candidate, Space

FAILURES = 3
"""Trials that fail one after the other before any has succeeded: then the search ends."""


class Pruned(Exception):
    """Raised by an objective: the trial is hopeless and was ended early."""


class TrialFailed(ClipwiseError, RuntimeError):
    """A trial gave no value; the others continue."""


class Objective(Protocol):
    """Trains with a candidate and returns its value."""

    def __call__(self, chosen: Candidate, number: int, report: Callable[[int, float], None]) -> float:
        """The value of the metric.

        Args:
            chosen: what to train with.
            number: of the trial.
            report: takes a value on the way, at a step; raises `Pruned` where it is hopeless.

        Raises:
            TrialFailed: there is no value.
        """


@dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        number: counted from 0.
        chosen: the candidate.
        value: value of the metric; None if it was pruned or failed.
        state: ``"complete"``, ``"pruned"`` or ``"failed"``.
    """

    number: int
    chosen: Candidate
    value: float | None
    state: str


class Search:
    """An Optuna study in a storage, new or continued.

    Args:
        storage: a URL of SQLAlchemy, such as ``sqlite:///tune.db`` or ``postgresql://...``.
        name: name of the study.
        space: the search space.
        lower_is_better: whether a lower metric is better.
        about: what is trained and measured; a study about something else is not continued.
        seed: seed of the search.

    Raises:
        MissingPackageError: Optuna is not installed.
        StoreError: the storage cannot be used.
        ArgumentError: a study of this name exists and is about something else.
    """

    def __init__(
        self,
        storage: str,
        name: str,
        space: Space,
        *,
        lower_is_better: bool,
        about: Mapping[str, Any],
        seed: int = 0,
    ) -> None:
        self._optuna = optuna = load("optuna", purpose="the search", extra="tune")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.lower_is_better = space, lower_is_better
        try:
            self._study, is_new = self._begun(self._opened(storage), name)
        except (ImportError, ValueError, optuna.exceptions.OptunaError) as error:
            raise _unusable(storage, error) from error
        except Exception as error:  # of SQLAlchemy and its drivers
            if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "alembic"):
                raise
            raise _unusable(storage, error) from error
        # Each process draws from its own stream: with the same one they would all try the same.
        self._study.sampler = optuna.samplers.TPESampler(seed=seed if is_new else seed + os.getpid())
        self._study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2)
        if is_new:
            self._study.set_user_attr("about", dict(about))
            for one in space.first():
                self._study.enqueue_trial(one)
        else:
            self._refuse_other(name, about)

    def _opened(self, storage: str) -> Any:
        """The storage; where several processes make its tables at once, all but one find them there."""
        for left in reversed(range(10)):
            try:
                return self._optuna.storages.RDBStorage(storage)
            except Exception as error:
                if not left or not any(
                    word in str(error) for word in ("already exists", "locked", "unique", "UNIQUE")
                ):
                    raise
                time.sleep(0.3)
        raise AssertionError

    def _begun(self, kept: Any, name: str) -> tuple[Any, bool]:
        """The study, and whether it is this process that has begun it: of several at once, one."""
        direction = "minimize" if self.lower_is_better else "maximize"
        try:
            return self._optuna.create_study(storage=kept, study_name=name, direction=direction), True
        except self._optuna.exceptions.DuplicatedStudyError:
            return self._optuna.load_study(storage=kept, study_name=name), False

    def _refuse_other(self, name: str, about: Mapping[str, Any]) -> None:
        before = self._study.user_attrs.get("about", about)
        for key in {**before, **about}:
            if before.get(key) != about.get(key):
                raise ArgumentError(
                    f"the study {name!r} already exists with {key} {before.get(key)!r}, and this is"
                    f" {about.get(key)!r}: name another with --study"
                )

    def run(self, objective: Objective, trials: int, told: Callable[[Trial], None] | None = None) -> None:
        """Run trials until the study has so many that were completed or pruned, over all processes.

        Args:
            objective: trains.
            trials: number of trials.
            told: called with each finished trial of this process.

        Raises:
            TrialFailed: the first trials all failed; with the reason of the last one.
        """
        optuna = self._optuna
        states = optuna.trial.TrialState
        reasons: list[TrialFailed] = []

        def train(asked: Any) -> float:
            chosen = self.space.choose(asked, self._settled())
            asked.set_user_attr("chosen", asdict(chosen))

            def report(step: int, value: float) -> None:
                if value == value:  # NaN says nothing; a trial that diverged ends by itself
                    asked.report(value, step)
                    if asked.should_prune():
                        raise Pruned

            try:
                return objective(chosen, asked.number, report)
            except Pruned as hopeless:
                raise optuna.TrialPruned from hopeless
            except KeyboardInterrupt:  # for Optuna a trial that failed: whoever goes on tries it again
                self._study.enqueue_trial(asked.params)
                raise
            except TrialFailed as error:
                reasons.append(error)
                raise

        def ended(study: Any, frozen: Any) -> None:
            if told is not None:
                told(_trial(frozen, "failed" if frozen.state == states.FAIL else frozen.state.name.lower()))
            if self.count() >= trials or (len(reasons) >= FAILURES and not self.count()):
                study.stop()

        while self.count() < trials:
            try:
                self._study.optimize(train, callbacks=[ended], catch=(TrialFailed,))
                break
            except optuna.exceptions.UpdateFinishedTrialError:
                continue  # SQLite has given one trial to two processes, and the other was first
        if reasons and not self.count():
            raise TrialFailed(f"all of the first {len(reasons)} trials failed: {reasons[-1]}") from reasons[
                -1
            ]

    def count(self) -> int:
        """Number of completed or pruned trials, over all processes."""
        return len(self.trials())

    def trials(self) -> list[Trial]:
        """These trials, in their order."""
        states = self._optuna.trial.TrialState
        ended = (states.COMPLETE, states.PRUNED)
        found = self._study.get_trials(deepcopy=False, states=ended)
        return [_trial(one, one.state.name.lower()) for one in found]

    def _settled(self) -> set[str]:
        """Methods without a number that were tried: the same training would give the same again."""
        if self.space.rates is not None:
            return set()
        return {one.chosen.method for one in self.trials() if one.chosen.number is None}

    def best(self) -> Trial | None:
        """The trial with the best value; None if none is finished."""
        ended = [one for one in self.trials() if one.value is not None and one.value == one.value]
        sign = 1.0 if self.lower_is_better else -1.0
        return min(ended, key=lambda one: sign * (one.value or 0.0), default=None)


def _trial(frozen: Any, state: str) -> Trial:
    chosen = Candidate(**frozen.user_attrs["chosen"])
    return Trial(frozen.number, chosen, frozen.value if state == "complete" else None, state)


def _unusable(storage: str, error: Exception) -> StoreError:
    kind, address, _ = storage.partition("://")
    shown = repr(kind + "://..." if address else storage)  # an address may hold a password
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError):
            package = {"psycopg": "psycopg[binary]"}.get(str(cause.name), cause.name)
            return StoreError(f"the storage {shown} needs a driver: pip install {package!r}")
        cause = cause.__cause__ or cause.__context__
    return StoreError(f"the storage {shown} cannot be used: {str(error).partition(chr(10))[0]}")


@contextmanager
def helpers(words: Sequence[str], jobs: int) -> Iterator[None]:
    """Further processes for the same study: ``clipwise tune`` with these arguments.

    At the end their last trials are waited for; whatever else ends this process is Ctrl-C for them.
    """
    command = [sys.executable, "-m", "clipwise", "tune", *words]
    processes: list[subprocess.Popen[bytes]] = []
    try:
        processes.extend(subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(jobs - 1))
        yield
        for process in processes:
            process.wait()
    finally:
        end(processes)
