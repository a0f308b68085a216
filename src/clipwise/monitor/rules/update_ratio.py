"""Steps that are far too long or too short for the weights."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.errors import ArgumentError
from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher, number, steps
from clipwise.monitor.rules._recent import Recent
from clipwise.monitor.store import Level, Moment
from clipwise.monitor.wording import of, show

RATIO = "clipwise/update_ratio"


@dataclass(frozen=True, kw_only=True)
class UpdateRatio(Rule):
    """Alerts if the median of ``||update|| / ||weights||`` over recent steps is out of range.

    For runs that record ``"clipwise/update_ratio"``. Around 1e-3 is healthy. The defaults are two orders of
    magnitude away from it on each side, since warm-up and the end of a schedule are lower, and small networks
    start higher.

    Args:
        low, high: the range.
        window: number of ratios in the median.
        patience, cooldown, level, actions: as for `Rule`.

    Source: Karpathy, CS231n, "Neural Networks Part 3", section "Ratio of weights:updates".
    """

    patience: int = 20
    cooldown: int = 2000
    level: Level = "warning"
    actions: Sequence[Action] = ("record", "warn")
    low: float = 1e-5
    high: float = 1e-1
    window: int = 50
    name: ClassVar[str] = "update_ratio"

    def __post_init__(self) -> None:
        super().__post_init__()
        steps("window", self.window)
        number("low", self.low)
        number("high", self.high)
        if self.low >= self.high:
            raise ArgumentError(f"low must be below high={self.high:g}, got {self.low:g}")

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(self, source)


class _Watcher(Watcher):
    def __init__(self, rule: UpdateRatio, source: str) -> None:
        self._rule, self._source = rule, source
        self._recent = Recent(rule.window)
        self._steps: deque[int] = deque(maxlen=rule.window)

    def judge(self, moment: Moment) -> bool | None:
        ratio = moment.values.get(RATIO)
        if ratio is None or not 0 <= ratio < float("inf"):
            return None
        self._recent.add(ratio)
        self._steps.append(moment.step)
        if not self._recent.full:
            return None
        return not self._rule.low <= self._recent.median() <= self._rule.high

    def finding(self) -> Finding:
        ratio = self._recent.median()
        high = ratio > self._rule.high
        seen = (
            f"A step{of(self._source)} changes the weights by {show(ratio)} of their norm (median of steps"
            f" {self._steps[0]:,} to {self._steps[-1]:,}); around 0.001 is healthy."
        )
        if high:
            return Finding(
                seen=seen,
                why="Steps this large destroy what was learned before.",
                advice="Lower the learning rate, by 10 times for a start, or clip lower.",
            )
        return Finding(
            seen=seen,
            why="Steps this small learn almost nothing.",
            advice="Raise the learning rate, by 10 times for a start; raise the threshold if nearly every"
            " step is clipped; check that the gradient reaches these weights.",
        )
