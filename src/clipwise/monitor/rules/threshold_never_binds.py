"""A clip that has not clipped anything for a long time."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher, steps
from clipwise.monitor.store import Level, Moment
from clipwise.monitor.wording import of, show

NORM, THRESHOLD, FRACTION = "clipwise/norm", "clipwise/threshold", "clipwise/clip_fraction"


@dataclass(frozen=True, kw_only=True)
class ThresholdNeverBinds(Rule):
    """Reports that a threshold was not reached in ``window`` steps; information only, since it does no harm.

    Only constant thresholds are judged: a learned one follows the norms and is meant for unusual gradients.
    An infinite threshold, which clips nothing, is not reported.

    Args:
        window: number of recorded steps without clipping.
        patience, cooldown, level, actions: as for `Rule`.
    """

    patience: int = 1
    cooldown: int = 20_000
    level: Level = "info"
    actions: Sequence[Action] = ("record",)
    window: int = 1000
    name: ClassVar[str] = "threshold_never_binds"

    def __post_init__(self) -> None:
        super().__post_init__()
        steps("window", self.window, low=10)

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(self, source)


class _Watcher(Watcher):
    def __init__(self, rule: ThresholdNeverBinds, source: str) -> None:
        self._rule, self._source = rule, source
        self._threshold = float("nan")
        self._first, self._steps, self._largest = 0, 0, 0.0

    def judge(self, moment: Moment) -> bool | None:
        values = moment.values
        threshold, fraction, norm = values.get(THRESHOLD), values.get(FRACTION), values.get(NORM)
        if threshold is None or fraction is None or not threshold < float("inf"):
            return None
        if fraction > 0 or threshold != self._threshold:
            self._threshold, self._steps, self._largest = threshold, 0, 0.0
            if fraction > 0:
                return False
        if not self._steps:
            self._first = moment.step
        self._steps += 1
        if norm is not None and self._largest < norm < float("inf"):
            self._largest = norm
        return self._steps >= self._rule.window

    def finding(self) -> Finding:
        return Finding(
            seen=f"Nothing{of(self._source)} was clipped since step {self._first:,}: the threshold is"
            f" {show(self._threshold)}, the largest norm was {show(self._largest)}.",
            why="Such a threshold only guards against an explosion, and the further it lies above the norms,"
            " the weaker that guard is.",
            advice=f"Keep it as a guard, or set it near the usual norms, {show(2 * self._largest)} say;"
            " autoclip() and zclip() learn it. clipwise suggest says more.",
        )
