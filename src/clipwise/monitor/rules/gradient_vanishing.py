"""Vanishing gradients: towards the first layers, or in the whole model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.robust import median
from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher, number, steps
from clipwise.monitor.store import Level, Moment
from clipwise.monitor.wording import of, show, times

NORM = "clipwise/norm"
FEWEST = 6
"""Parameters that a model must have for first and last ones to be told apart."""

TINY = 1e-45
"""What a norm of 0 counts as: the smallest number of float32."""

USUAL = 10
"""Windows at the beginning that say what is usual."""

LEARNED = 0.05
"""Share of the loss at the beginning by which it must have fallen for anything to have been learned."""


@dataclass(frozen=True, kw_only=True)
class GradientVanishing(Rule):
    """Alerts if gradients vanish, which clipping cannot cure.

    Across layers, if the norms of the parameters are known (in the order of the model, from input to output):
    the median norm of the first third is below ``ratio`` times that of the last third. Parameters whose
    gradient was 0 from the beginning are ignored as unused.

    In the whole model, if a loss is known: the median norm of ``window`` steps is below ``collapse`` times
    that of the first 10 windows, while the loss is not low. The loss counts as low if it has decreased by
    more than 5 % and has kept more than half of its best decrease: norms that decrease with the loss are
    normal in a training that converges.

    Args:
        ratio: ratio of the first to the last layers, below 1.
        collapse: ratio of the recent to the first norms, below 1.
        window: number of steps per median.
        patience, cooldown, level, actions: as for `Rule`.
    """

    patience: int = 5
    cooldown: int = 2000
    level: Level = "warning"
    actions: Sequence[Action] = ("record", "warn")
    ratio: float = 1e-4
    collapse: float = 1e-3
    window: int = 50
    name: ClassVar[str] = "gradient_vanishing"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("ratio", self.ratio, below=1.0)
        number("collapse", self.collapse, below=1.0)
        steps("window", self.window, low=10)

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(self, source)


class _Watcher(Watcher):
    def __init__(self, rule: GradientVanishing, source: str) -> None:
        self._rule, self._source = rule, source
        self._layers, self._whole = _Layers(rule), _Whole(rule)

    def judge(self, moment: Moment) -> bool | None:
        # Layers are known at some steps only, the rest is judged once a window: each keeps its last word.
        asked = [part.take(moment) for part in (self._layers, self._whole)]
        if not any(asked):
            return None
        return self._layers.bad or self._whole.bad

    def finding(self) -> Finding:
        part = self._layers if self._layers.bad else self._whole
        return Finding(
            seen=part.words(of(self._source)),
            why="Weights without a gradient do not learn, and clipping can only make gradients smaller.",
            advice="Check the initialisation, add residual connections or normalisation, use gated units"
            " (LSTM, GRU) or ReLU in place of sigmoid and tanh, and try another learning rate: units that a"
            " long step has driven into saturation pass no gradient on.",
        )


class _Layers:
    """First against last layers."""

    def __init__(self, rule: GradientVanishing) -> None:
        self._rule = rule
        self._used: set[str] = set()
        self._seen: tuple[int, str, float, str, float, float] = (0, "", 0.0, "", 0.0, 1.0)
        self.bad = False

    def take(self, moment: Moment) -> bool:
        if not moment.layers or moment.worst is not None:
            return False
        self._used.update(name for name, norm in moment.layers.items() if norm > 0)
        norms = {name: max(norm, TINY) for name, norm in moment.layers.items() if name in self._used}
        if len(norms) < FEWEST:
            return False
        third = len(norms) // 3
        names = list(norms)
        first = {name: norms[name] for name in names[:third]}
        last = {name: norms[name] for name in names[-third:]}
        ratio = _middle(first) / _middle(last)
        self.bad = ratio < self._rule.ratio
        if self.bad:
            low, high = min(first, key=first.__getitem__), max(last, key=last.__getitem__)
            self._seen = moment.step, low, first[low], high, last[high], ratio
        return True

    def words(self, source: str) -> str:
        step, low, least, high, most, ratio = self._seen
        shown = "0" if least == TINY else show(least)
        return (
            f"The gradients of the first layers{source} are {times(1 / ratio)} smaller than those of the last"
            f" at step {step:,} ({low}: norm {shown}; {high}: {show(most)})."
        )


class _Whole:
    """The norm of all, a window at a time, and whether the loss accounts for it."""

    def __init__(self, rule: GradientVanishing) -> None:
        self._rule = rule
        self._norms: list[float] = []
        self._losses: list[float] = []
        self._before: list[float] = []  # medians of the first windows: what was usual
        self._first = self._best = math.nan
        self._start, self._seen = 0, (0, 0, 0.0, 0.0, 0.0)
        self.bad = False

    def take(self, moment: Moment) -> bool:
        loss, norm = moment.values.get("loss"), moment.values.get(NORM)
        if loss is not None and abs(loss) < math.inf:
            self._losses.append(loss)
        if norm is None or not norm < math.inf:
            return False
        if not self._norms:
            self._start = moment.step
        self._norms.append(norm)
        if len(self._norms) < self._rule.window:
            return False
        norms, losses = sorted(self._norms), sorted(self._losses)
        self._norms, self._losses = [], []
        if not losses:
            return False
        now, loss = median(norms), median(losses)
        self._best = loss if math.isnan(self._best) else min(self._best, loss)
        self._first = loss if math.isnan(self._first) else self._first
        usual = median(sorted(self._before)) if self._before else now
        if len(self._before) < USUAL:
            self._before.append(now)
        self.bad = now < self._rule.collapse * usual and not self._is_low(loss)
        self._seen = self._start, moment.step, now, usual, loss
        return True

    def _is_low(self, loss: float) -> bool:
        gained = self._first - self._best
        return gained > LEARNED * abs(self._first) and self._first - loss >= gained / 2

    def words(self, source: str) -> str:
        start, step, now, usual, loss = self._seen
        return (
            f"The gradient's norm{source} has fallen to {show(now)} (median of steps {start:,} to"
            f" {step:,}) from the {show(usual)} of the beginning, while the loss is still"
            f" {show(loss)}; it began at {show(self._first)}."
        )


def _middle(norms: Mapping[str, float]) -> float:
    return median(sorted(norms.values()))
