"""What one training run leaves behind: plain numbers, which every table, picture and page reads alike."""

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
    """What is known of a run before its first step.

    Attributes:
        label: how people call it: ``"no clipping"``, ``"clip_by_global_norm(5.0)"``, ``"auto"``.
        clip: the clip in its short string form, None for none.
        role: ``"baseline"`` (no clipping), ``"configured"``, ``"given"`` (asked for by --clip) or ``"auto"``.
        seed: the seed of the run.
        metric: name of the held-out metric people decide by, e.g. ``"bits"``; a key of each evaluation.
        lower_is_better: whether less of it is better.
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
        steps: one list a column of `STEP_COLUMNS`, one entry a step; NaN and Inf are kept as they are.
        evaluations: held-out figures over the run, the last one final.
        seconds: training time in seconds.
        skipped_steps: steps that were not taken: the gradient was not finite, or a clip left them out.
        interrupted: the run was stopped before its end.
    """

    steps: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STEP_COLUMNS})
    evaluations: list[Evaluation] = field(default_factory=list)
    seconds: float = 0.0
    skipped_steps: int = 0
    interrupted: bool = False

    @property
    def final(self) -> dict[str, float]:
        """The figures of the last evaluation; empty where there was none."""
        return self.evaluations[-1].metrics if self.evaluations else {}
