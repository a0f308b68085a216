"""A loss that does not decrease any more."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.robust import median
from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher, number, steps
from clipwise.monitor.store import Level, Moment
from clipwise.monitor.wording import show

BLOCKS = 20
"""How often in a window it is judged."""


@dataclass(frozen=True, kw_only=True)
class Stalled(Rule):
    """Alerts if the loss has not decreased over a long window.

    The last ``window`` losses are split into halves and judged 20 times per window: the loss stalls if
    ``median(second half) > median(first half) - least * |median(first half)|``. Patience counts these
    judgements.

    A training that has converged stalls too, which is worth knowing. Losses whose names have a source as a
    prefix, such as those of a GAN, are not judged, since they need not decrease.

    Args:
        window: number of losses.
        least: smallest relative decrease between the halves.
        patience, cooldown, level, actions: as for `Rule`.
    """

    patience: int = 3
    cooldown: int = 5000
    level: Level = "warning"
    actions: Sequence[Action] = ("record", "warn")
    window: int = 2000
    least: float = 0.005
    name: ClassVar[str] = "stalled"

    def __post_init__(self) -> None:
        super().__post_init__()
        steps("window", self.window, low=2 * BLOCKS)
        number("least", self.least, below=1.0)

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(self, source)


class _Watcher(Watcher):
    def __init__(self, rule: Stalled, source: str) -> None:
        self._rule, self._judges = rule, not source
        self._losses: deque[float] = deque(maxlen=rule.window)
        self._steps: deque[int] = deque(maxlen=rule.window)
        self._count = 0
        self._halves = 0.0, 0.0

    def judge(self, moment: Moment) -> bool | None:
        loss = moment.values.get("loss")
        if not self._judges or loss is None or not -float("inf") < loss < float("inf"):
            return None
        self._losses.append(loss)
        self._steps.append(moment.step)
        self._count += 1
        window = self._rule.window
        if self._count < window or self._count % max(1, window // BLOCKS):
            return None
        losses = list(self._losses)
        first, second = median(sorted(losses[: window // 2])), median(sorted(losses[window // 2 :]))
        self._halves = first, second
        return second > first - self._rule.least * abs(first)

    def finding(self) -> Finding:
        first, second = self._halves
        return Finding(
            seen=f"The loss has not fallen since step {self._steps[0]:,}: its median was {show(first)} in the"
            f" first half of that time and {show(second)} in the second, up to step {self._steps[-1]:,}.",
            why="Either the training has converged and more of it is wasted, or it is stuck.",
            advice="If the loss is good enough, stop here. Otherwise try a lower learning rate (if the loss"
            " oscillates around a minimum) or a higher one (if it hardly moves); raise the threshold if"
            " nearly every step is clipped; check that the labels belong to the inputs.",
        )
