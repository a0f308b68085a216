"""A threshold so low that nearly every gradient is reduced to a small part of its norm."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher, number, steps
from clipwise.monitor.rules._recent import Recent
from clipwise.monitor.store import Level, Moment
from clipwise.monitor.wording import of, show

NORM, AFTER = "clipwise/norm", "clipwise/norm_after"
THRESHOLD, FRACTION = "clipwise/threshold", "clipwise/clip_fraction"


@dataclass(frozen=True, kw_only=True)
class ThresholdTooLow(Rule):
    """Alerts if nearly all recent steps were clipped, and little is left of the gradients.

    A step counts as clipped if at least half of its groups were (``clip_fraction``). The rule alerts if a
    share ``often`` of the last ``window`` steps was clipped and the median of ``norm_after / norm`` is below
    ``left``.

    Clips that learn their threshold are not judged, since some are meant to clip most steps (``autoclip(10)``
    clips nine of ten). They are recognised by a threshold that rises sooner or later after norms were
    clipped: the rule judges only windows in which the threshold never rose, which are those of a number or of
    a decreasing schedule. Clipping most steps alone is not a fault: with a large learning rate it may keep
    the training stable. Hence ``left``.

    Args:
        window: number of recorded steps.
        often: share of them that was clipped, below 1.
        left: share of the norm that is left after clipping, below 1.
        patience, cooldown, level, actions: as for `Rule`.
    """

    patience: int = 1
    cooldown: int = 2000
    level: Level = "warning"
    actions: Sequence[Action] = ("record", "warn")
    window: int = 200
    often: float = 0.9
    left: float = 0.2
    name: ClassVar[str] = "threshold_too_low"

    def __post_init__(self) -> None:
        super().__post_init__()
        steps("window", self.window, low=10)
        number("often", self.often, below=1.0)
        number("left", self.left, below=1.0)

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(self, source)


class _Watcher(Watcher):
    def __init__(self, rule: ThresholdTooLow, source: str) -> None:
        self._rule, self._source = rule, source
        self._start_over()

    def _start_over(self) -> None:
        window = self._rule.window
        self._hits: deque[bool] = deque(maxlen=window)
        self._steps: deque[int] = deque(maxlen=window)
        self._hit = 0
        self._left, self._norms = Recent(window), Recent(window)
        self._threshold = float("inf")

    def judge(self, moment: Moment) -> bool | None:
        values = moment.values
        threshold, fraction = values.get(THRESHOLD), values.get(FRACTION)
        norm, after = values.get(NORM), values.get(AFTER)
        if threshold is None or fraction is None or norm is None or after is None:
            return None
        if not 0 < norm < float("inf") or not after < float("inf"):
            return None
        if not threshold <= self._threshold:  # it rose, or is NaN
            self._start_over()
        if not threshold < float("inf"):
            return None
        self._threshold = threshold
        if len(self._hits) == self._rule.window:
            self._hit -= self._hits[0]
        self._hits.append(fraction >= 0.5)
        self._steps.append(moment.step)
        self._hit += fraction >= 0.5
        self._left.add(after / norm)
        self._norms.add(norm)
        if len(self._hits) < self._rule.window:
            return None
        often = self._hit >= self._rule.often * self._rule.window
        return often and self._left.median() < self._rule.left

    def finding(self) -> Finding:
        low, high = self._norms.quantile(0.5), self._norms.quantile(0.95)
        return Finding(
            seen=f"{self._hit:,} of the {self._rule.window:,} steps{of(self._source)} recorded since step"
            f" {self._steps[0]:,} hit the threshold (now {show(self._threshold)}), and clipping leaves"
            f" {self._left.median():.2g} of the gradient's norm, whose median is {show(low)}.",
            why="Every step then has the same length, set by the threshold instead of by the gradient: it"
            " acts as a much smaller learning rate, and training may be very slow.",
            advice=f"If it is too slow, try twice the threshold, and twice that: only the largest gradients"
            f" meet a global norm of {show(high)}, which would have clipped one step in twenty here. Or let"
            " autoclip() or auto() learn it. If steps of one length are what you want, leave this rule out.",
        )
