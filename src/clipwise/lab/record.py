"""The record of one training run: plain numbers, from which tables, pictures and pages are made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["STEP_COLUMNS", "Evaluation", "Progress", "RunInfo", "RunRecord"]

STEP_COLUMNS = ("loss", "norm", "norm_after", "threshold", "clip_fraction", "nonfinite")
"""One value a step each. ``loss`` is the training loss, the rest comes from `clipwise.ClipReport`."""

Progress: TypeAlias = Callable[[int, int, Mapping[str, float]], None]
"""``progress(step, total, figures)``, called a few times a second with the steps taken, the steps to take,
and ``loss``, ``norm``, ``threshold`` and ``clip_fraction`` of the last step."""


@dataclass
class Evaluation:
    """The held-out figures after ``step`` steps and ``seconds`` of training (evaluation time left out)."""

    step: int
    seconds: float
    metrics: dict[str, float]


@dataclass
class RunInfo:
    """Facts about a run that are known before its first step.

    Attributes:
        label: name in tables and pictures: ``"no clipping"``, ``"clip_by_global_norm(5.0)"``, ``"auto"``.
        clip: the clip in its short string form, None for none.
        role: ``"baseline"`` (no clipping), ``"configured"``, ``"given"`` (asked for by --clip) or ``"auto"``.
        seed: the seed of the run.
        metric: name of the held-out metric by which runs are compared, such as ``"bits"``; a key of each
            evaluation.
        lower_is_better: whether a lower value of the metric is better.
    """

    label: str
    clip: str | None
    role: str
    seed: int
    metric: str
    lower_is_better: bool


@dataclass
class RunRecord(RunInfo):
    """One run of one configuration with one clip and one seed.

    Attributes:
        steps: one list for each column of `STEP_COLUMNS`, with one entry per step; NaN and Inf are kept.
        evaluations: held-out figures during the run; the last one is final.
        seconds: training time in seconds.
        skipped_steps: number of skipped steps: the gradient was not finite, or a clip skipped the step.
        interrupted: whether the run was stopped before its end.
        multiple: a sentence if its first gradients are a whole multiple of another run's in the recording,
            because one of them sums what the other averages.
    """

    steps: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STEP_COLUMNS})
    evaluations: list[Evaluation] = field(default_factory=list)
    seconds: float = 0.0
    skipped_steps: int = 0
    interrupted: bool = False
    multiple: str | None = None

    @property
    def final(self) -> dict[str, float]:
        """The figures of the last evaluation; empty if there was none."""
        return self.evaluations[-1].metrics if self.evaluations else {}
