"""What the suite needs to know of a task, and how one cell of the table is run."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from clipwise.lab.compare.divergence import diverged_at
from clipwise.lab.compare.figures import Figures, error, measure
from clipwise.lab.record import Progress, RunInfo, RunRecord
from clipwise.lab.recording import RecordingTarget
from clipwise.lab.suite.budgets import BudgetName
from clipwise.lab.suite.methods import METHODS, Method, Variant

__all__ = ["Result", "SuiteTask", "Trial", "run"]


@dataclass(frozen=True)
class Trial:
    """The parameters of one training.

    Attributes:
        method: the method, whose clip is attached.
        variant: variant of the method.
        seed: seed of the initial weights and of the data.
        budget: budget, which selects the size of the task.
        target: where the run is recorded.
        progress: function that is called a few times a second.
    """

    method: Method
    variant: Variant
    seed: int
    budget: BudgetName
    target: RecordingTarget
    progress: Progress | None = None

    def info(self, metric: str, *, lower_is_better: bool) -> RunInfo:
        """The run as its recording names it."""
        label = self.method.label
        if self.variant.rate != 1.0:
            label = f"{label}, {self.variant.rate:g} times the rate"
        role = {"baseline": "baseline", "auto": "auto"}.get(self.method.role, "given")
        return RunInfo(label, self.method.clip, role, self.seed, metric, lower_is_better)


@dataclass(kw_only=True)
class SuiteTask(ABC):
    """A task: its data, its published setting, its metric, and a size for each budget.

    Attributes:
        name: name on the command line.
        title: title in the report.
        about: data and setting in a sentence or two, with the source of the setting.
        metric: the held-out figure by which methods are compared, a key of each evaluation.
        sizes: options of the task for each budget. The task is not run with a budget that is missing here.
        seconds: estimated time of a run for each budget on one core, for the estimate of the time left.
        lower_is_better: whether a lower value of the metric is better.
        goal: value of the metric that counts as solved. Methods are then compared by the number of seeds that
            reach it, and then by the steps that it takes. None to compare final values.
        methods: methods that the task is trained with.
        has_norm: whether layer normalisation can be added to the model.
        revision: a number that is increased when results change for a reason other than a size.
    """

    name: str
    title: str
    about: str
    metric: str
    sizes: Mapping[BudgetName, Mapping[str, Any]]
    seconds: Mapping[BudgetName, float]
    lower_is_better: bool = True
    goal: float | None = None
    methods: Mapping[str, Method] = field(default_factory=lambda: METHODS)
    has_norm: bool = True
    revision: int = 1

    @abstractmethod
    def train(self, trial: Trial) -> RunRecord:
        """Train once, recorded in ``trial.target``."""

    def setting(self, budget: BudgetName) -> dict[str, Any]:
        """Everything that the results depend on; cells of different settings are different cells."""
        return {"size": dict(self.sizes[budget]), "goal": self.goal, "revision": self.revision}

    def runs(self, method: Method) -> bool:
        """Whether the task supports the method."""
        return self.has_norm or not any(one.layer_norm for one in method.variants)


@dataclass(frozen=True)
class Result:
    """The result of a finished cell.

    Attributes:
        figures: figures of the run, or of the best variant if there are several.
        curve: pairs of a step and the held-out metric after it, until the run diverged.
        held_out: further figures of the last evaluation.
        variant: the best variant.
        tried: final metric of each variant; None if it diverged.
        seconds: time of all variants together, evaluations included.
    """

    figures: Figures
    curve: tuple[tuple[int, float], ...]
    variant: Variant
    tried: tuple[float | None, ...]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """As plain values that JSON can hold, NaN and Inf apart."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Result":
        """The inverse of `to_dict`."""
        return cls(
            Figures(**plain["figures"]),
            tuple((int(step), float(value)) for step, value in plain["curve"]),
            Variant(**plain["variant"]),
            tuple(plain["tried"]),
            float(plain["seconds"]),
        )


def run(
    task: SuiteTask,
    method: Method,
    seed: int,
    budget: BudgetName,
    target: RecordingTarget,
    progress: Progress | None = None,
) -> Result:
    """Run one cell: one training, or one for each variant of the method, of which the best counts.

    Raises:
        KeyboardInterrupt: a training was stopped.
        ClipwiseError: data is missing, or the recording cannot be written.
    """
    records, began = [], time.perf_counter()
    with _one_thread():
        for variant in method.variants:
            record = task.train(Trial(method, variant, seed, budget, target, progress))
            if record.interrupted:
                raise KeyboardInterrupt
            records.append(record)
    figures = [measure(record, target=task.goal) for record in records]
    best = min(range(len(figures)), key=lambda i: standing(figures[i], task.goal))
    return Result(
        # The label of a variant names its rate; that of the row does not.
        replace(figures[best], label=method.label),
        curve_of(records[best]),
        method.variants[best],
        tuple(None if one.diverged else one.final for one in figures),
        time.perf_counter() - began,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """The models are too small for two threads, and cells run beside each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def standing(figures: Figures, goal: float | None) -> tuple[float, float]:
    """What runs are ordered by, the best first: with a goal the steps to it, then the final error."""
    sound = not figures.diverged and math.isfinite(figures.final)
    final = error(figures.final, lower_is_better=figures.lower_is_better) if sound else math.inf
    if goal is None:
        return (0.0, final)
    return (math.inf if figures.steps_to_target is None else figures.steps_to_target, final)


def curve_of(record: RunRecord) -> tuple[tuple[int, float], ...]:
    """The held-out metric over the steps, finite values only, up to where the run diverged."""
    at = diverged_at(record)
    pairs = ((each.step, each.metrics.get(record.metric, math.nan)) for each in record.evaluations)
    return tuple((s, v) for s, v in pairs if math.isfinite(v) and (at is None or s < at))
