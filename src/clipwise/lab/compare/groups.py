"""The runs of one clip over all seeds: median and range of each figure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from clipwise.lab.compare.figures import Figures, error_reduction, find_target, measure
from clipwise.lab.record import RunRecord

__all__ = ["Group", "Spread", "baseline_of", "best_of", "group"]


@dataclass(frozen=True)
class Spread:
    """Median, smallest and largest value over the seeds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None], *, missing: float = math.inf) -> "Spread":
        """The spread of some values; None and NaN count as ``missing``, so no diverged seed is dropped.

        >>> Spread.of([2.5, 2.4, float("nan")])
        Spread(median=2.5, low=2.4, high=inf)
        """
        known = [missing if v is None or math.isnan(v) else float(v) for v in values]
        return cls(float(np.median(known)), min(known), max(known))


@dataclass(frozen=True)
class Group:
    """One clip with all seeds."""

    runs: tuple[Figures, ...]

    @property
    def first(self) -> Figures:
        return self.runs[0]

    @property
    def label(self) -> str:
        return self.first.label

    @property
    def role(self) -> str:
        return self.first.role

    @property
    def metric(self) -> str:
        return self.first.metric

    @property
    def lower_is_better(self) -> bool:
        return self.first.lower_is_better

    @property
    def diverged(self) -> tuple[Figures, ...]:
        return tuple(run for run in self.runs if run.diverged)

    @property
    def interrupted(self) -> bool:
        return any(run.interrupted for run in self.runs)

    @property
    def never_fired(self) -> bool:
        """Whether there was a clip that is known to have never clipped anything."""
        return self.role != "baseline" and all(run.clipped_steps == 0 for run in self.runs)

    @property
    def worst(self) -> float:
        """The value that an unknown metric counts as."""
        return math.inf if self.lower_is_better else -math.inf

    @property
    def final(self) -> Spread:
        """The held-out metric at the end; infinitely bad for a run that diverged."""
        return Spread.of((run.final for run in self.runs), missing=self.worst)

    def spread(self, name: str) -> Spread:
        """Any figure by its name; unknown values count as infinite, the worst value for all of them."""
        return self.final if name == "final" else Spread.of(getattr(run, name) for run in self.runs)

    def reduction(self, baseline: "Group | None") -> float | None:
        """Error reduction in per cent between the medians over the seeds; None if it is undefined."""
        if baseline is None or baseline is self:
            return None
        for side in (self, baseline):
            if side.interrupted or 2 * len(side.diverged) >= len(side.runs):
                return None
        return error_reduction(baseline.final.median, self.final.median, lower_is_better=self.lower_is_better)


def group(records: Sequence[RunRecord], *, target: float | None = None) -> list[Group]:
    """Compute the figures of every run and group the seeds of each clip, in order of first appearance.

    Args:
        records: the runs.
        target: value of the held-out metric to reach; by default from `find_target`.
    """
    if target is None:
        target = find_target(records)
    baselines = {record.seed: record for record in records if record.role == "baseline"}
    runs: dict[str, list[Figures]] = {}
    for record in records:
        baseline = None if record.role == "baseline" else baselines.get(record.seed)
        runs.setdefault(record.label, []).append(measure(record, baseline=baseline, target=target))
    return [Group(tuple(each)) for each in runs.values()]


def baseline_of(groups: Iterable[Group]) -> Group | None:
    """The runs without clipping; None if there are none."""
    return next((each for each in groups if each.role == "baseline"), None)


def best_of(groups: Iterable[Group]) -> Group | None:
    """The clip with the best median held-out metric among those whose median run did not diverge.

    Of equal clips the first one, so that a clip that changes nothing is not preferred to none.
    """
    candidates = [
        each
        for each in groups
        if not each.interrupted
        and math.isfinite(each.final.median)
        and 2 * len(each.diverged) < len(each.runs)
    ]
    if not candidates:
        return None
    key = (lambda g: g.final.median) if candidates[0].lower_is_better else (lambda g: -g.final.median)
    return min(candidates, key=key)
