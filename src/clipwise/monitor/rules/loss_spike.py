"""A loss far above the usual."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher, number, steps
from clipwise.monitor.rules._recent import Recent
from clipwise.monitor.store import Level, Moment
from clipwise.monitor.wording import of, show, times

ENOUGH = 30
"""Losses that must be known before it can be told what is usual."""

FIRST = 3
"""Losses at the beginning; until enough are known, what is more than twice the highest of them is high."""

FAR = 10.0
"""Times the ones before it that a loss is high already among the first: what is known then is little."""


@dataclass(frozen=True, kw_only=True)
class LossSpike(Rule):
    """Alerts if several losses in a row are far above the recent ones.

    A loss is high if ``loss > median + z * sigma`` and ``loss > median + rise * |median|``, with the median
    and ``sigma = 1.4826 * MAD`` of the last ``window`` losses before it; if these are all positive, also
    ``log(loss) > log(median) + z * sigma(log)``. So neither a decreasing loss nor one whose noise decreases
    with it is high, and patience ignores a single hard batch. Before 30 losses are known, a loss is high if
    it exceeds twice the largest of the first three. One of the first three is high if it exceeds ten times
    those before it; it then does not count as one of them.

    Args:
        window: number of recent losses.
        z: number of robust standard deviations.
        rise: smallest distance of a high loss from the median, relative to the median.
        patience, cooldown, level, actions: as for `Rule`.
    """

    patience: int = 3
    cooldown: int = 200
    level: Level = "warning"
    actions: Sequence[Action] = ("record", "warn")
    window: int = 100
    z: float = 6.0
    rise: float = 0.5
    name: ClassVar[str] = "loss_spike"

    def __post_init__(self) -> None:
        super().__post_init__()
        steps("window", self.window, low=ENOUGH)
        number("z", self.z)
        number("rise", self.rise)

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(self, source)


class _Watcher(Watcher):
    def __init__(self, rule: LossSpike, source: str) -> None:
        self._rule, self._source = rule, source
        self._recent = Recent(rule.window)
        self._first = -math.inf
        self._bad = (0, 0.0, 0.0)

    def judge(self, moment: Moment) -> bool | None:
        loss = moment.values.get("loss")
        if loss is None or not -float("inf") < loss < float("inf"):
            return None
        high = self._is_high(loss)
        if high:
            early = len(self._recent) < ENOUGH
            self._bad = moment.step, loss, self._first if early else self._recent.median()
        elif len(self._recent) < FIRST:
            self._first = max(self._first, loss)
        self._recent.add(loss)
        return high

    def _is_high(self, loss: float) -> bool | None:
        recent, rule = self._recent, self._rule
        if len(recent) < ENOUGH:
            if not len(recent) or (len(recent) < FIRST and not self._first):
                return None
            times = FAR if len(recent) < FIRST else 2.0
            return loss > self._first + (times - 1.0) * abs(self._first)
        middle = recent.median()
        # The cheap test comes first: the others are asked for few losses of a run.
        if loss <= middle + rule.rise * abs(middle) or loss <= middle + rule.z * recent.sigma():
            return False
        return recent.quantile(0) <= 0 or loss > middle * math.exp(rule.z * recent.log_sigma())

    def finding(self) -> Finding:
        step, loss, usual = self._bad
        often = f" ({times(loss / usual)} as much)" if usual > 0 else ""
        return Finding(
            seen=f"The loss{of(self._source)} is {show(loss)} at step {step:,}, far above the"
            f" {show(usual)}{often} that was usual before.",
            why="After such a jump a run takes long to recover, or never does.",
            advice="Clip lower (autoclip(10) learns where), lower the learning rate, or go back to a"
            " checkpoint before the jump and leave out the batches around it. If it comes at the same place"
            " of each epoch, look at that data.",
        )
