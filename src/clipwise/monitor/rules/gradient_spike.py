"""A gradient norm far above the usual."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher, number, steps
from clipwise.monitor.rules._recent import Recent
from clipwise.monitor.store import Level, Moment
from clipwise.monitor.wording import of, show, times

NORM, AFTER = "clipwise/norm", "clipwise/norm_after"
ENOUGH = 30
"""Norms that must be known before it can be told how much they vary."""

FIRST = 3
"""Norms at the beginning, whose largest stands for what is usual until enough are known."""


@dataclass(frozen=True, kw_only=True)
class GradientSpike(Rule):
    """Alerts if a gradient norm is far above the recent ones, and says what is left of it after clipping.

    A norm is high if ``norm > factor * median`` and ``log(norm) > log(median) + z * sigma``, with the median
    and ``sigma = 1.4826 * MAD`` of the logarithms of the last ``window`` norms before it (logarithms because
    norms vary by factors). Before 30 norms are known, a norm is high if it exceeds ``factor`` times their
    median and ``factor`` times the largest of the first three. One of the first three is high if it exceeds
    ``factor**2`` times those before it; it then does not count as one of them. If the norms of the parameters
    at that step are known, the largest one is named.

    Args:
        window: number of recent norms.
        z: number of robust standard deviations of the logarithm.
        factor: smallest ratio of a high norm to the median.
        patience, cooldown, level, actions: as for `Rule`.
    """

    patience: int = 1
    cooldown: int = 200
    level: Level = "warning"
    actions: Sequence[Action] = ("record", "warn")
    window: int = 100
    z: float = 6.0
    factor: float = 10.0
    name: ClassVar[str] = "gradient_spike"

    def __post_init__(self) -> None:
        super().__post_init__()
        steps("window", self.window, low=ENOUGH)
        number("z", self.z)
        number("factor", self.factor, above=1.0)

    def watch(self, source: str = "") -> Watcher:
        return SpikeWatcher(self, source)


class SpikeWatcher(Watcher):
    """Judges one series of norms.

    Attributes:
        norm: name of the values.
    """

    norm: ClassVar[str] = NORM

    def __init__(self, rule: GradientSpike, source: str) -> None:
        self._rule, self._source = rule, source
        self._recent = Recent(rule.window)
        self._first = 0.0
        self._bad, self._usual = Moment(0, "", {}), 1.0

    def judge(self, moment: Moment) -> bool | None:
        norm = moment.values.get(self.norm)
        if norm is None or not 0 < norm < float("inf"):  # a norm of 0 has no logarithm
            return None
        high = self._is_high(norm)
        if high:
            early = len(self._recent) < ENOUGH
            self._bad, self._usual = moment, self._first if early else self._recent.median()
        elif len(self._recent) < FIRST:
            self._first = max(self._first, norm)
        self._recent.add(norm)
        return high

    def _is_high(self, norm: float) -> bool | None:
        recent, rule = self._recent, self._rule
        if len(recent) < FIRST:
            return norm > rule.factor**2 * self._first if len(recent) else None
        middle = recent.median()
        if norm <= rule.factor * middle:
            return False
        if len(recent) < ENOUGH:
            return norm > rule.factor * self._first
        return math.log(norm / middle) > rule.z * recent.log_sigma()

    def finding(self) -> Finding:
        bad, norm = self._bad, self._bad.values[NORM]
        after = bad.values.get(AFTER, norm)
        cut = after < norm / 2
        largest = ""
        if bad.layers:
            name = max(bad.layers, key=lambda one: bad.layers[one])
            largest = f"; the largest is that of {name} ({show(bad.layers[name])})"
        if cut:
            why = f"Clipping reduced it to {show(after)}, so a single such step does little harm; many would."
            advice = (
                "If it happens once, nothing needs to be done. If it recurs, lower the learning rate and look"
                " at the batches."
            )
        else:
            why = "A step this large moves the weights far away, and it was not clipped."
            advice = (
                "Clip by global norm somewhat above the usual norm, for example"
                f" clip_by_global_norm({2 * self._usual:.2g}), or use autoclip(10), which learns the"
                " threshold. Look at the batch of that step too."
            )
        return Finding(
            seen=f"The gradient's norm{of(self._source)} is {show(norm)} at step {bad.step:,},"
            f" {times(norm / self._usual)} the {show(self._usual)} that was usual before{largest}.",
            why=why,
            advice=advice,
        )
