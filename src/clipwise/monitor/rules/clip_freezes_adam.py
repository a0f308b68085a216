"""A clip that scales gradients down to Adam's eps, so that steps become very short."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher, number
from clipwise.monitor.store import ADAM, NORM, Level, Moment
from clipwise.monitor.wording import of, show

AFTER = "clipwise/norm_after"


@dataclass(frozen=True, kw_only=True)
class ClipFreezesAdam(Rule):
    """Alerts if the root mean square of the clipped gradient is below ``times`` Adam's eps.

    Adam's update is ``m / (sqrt(v) + eps)``. The scale of the gradient cancels only while ``sqrt(v)``, about
    the root mean square of the gradient, is far above eps. The rule applies where eps is known: with
    `clipwise.torch.attach`, `clipwise.keras.attach` or ``clipwise observe`` on PyTorch, for optimizers that
    all divide by the root of a second moment (Adam, RMSprop and others), and for norms of order 2. A gradient
    that is as small before clipping raises no alert.

    Args:
        times: the smallest ratio of root mean square to eps.
        patience, cooldown, level, actions: as for `Rule`.

    Source: reports of users of Megatron-LM, of AdamW stalling at a coefficient of 2e-8.
    """

    patience: int = 10
    cooldown: int = 5000
    level: Level = "warning"
    actions: Sequence[Action] = ("record", "warn")
    times: float = 10.0
    name: ClassVar[str] = "clip_freezes_adam"

    def __post_init__(self) -> None:
        super().__post_init__()
        number("times", self.times)

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(self, source)


class _Watcher(Watcher):
    def __init__(self, rule: ClipFreezesAdam, source: str) -> None:
        self._rule, self._source = rule, source
        self._eps = self._root = math.nan
        self._seen = 0, math.nan, math.nan

    def judge(self, moment: Moment) -> bool | None:
        values = moment.values
        eps, entries = (values.get(name, math.nan) for name in ADAM)
        if eps > 0 and 0 < entries < math.inf:  # said once
            self._eps, self._root = eps, math.sqrt(entries)
        norm, after = values.get(NORM), values.get(AFTER)
        if norm is None or after is None or not self._eps > 0 or not 0 <= after <= norm < math.inf:
            return None
        before, left = norm / self._root, after / self._root
        self._seen = moment.step, before, left
        return left < min(before, self._rule.times * self._eps) and before >= self._rule.times * self._eps

    def finding(self) -> Finding:
        step, before, left = self._seen
        enough = show(100 * self._eps * self._root)
        return Finding(
            seen=f"Clipping{of(self._source)} leaves gradients with a root mean square of {show(left)} at"
            f" step {step:,}, where Adam's eps is {show(self._eps)}; before clipping it was {show(before)}.",
            why="Adam divides by the root of the second moment plus eps, so gradients near eps, or below it,"
            " make steps far shorter than the learning rate says, and the training stalls.",
            advice=f"Raise the threshold: of a global norm {enough} or more leaves 100 eps. Or lower eps, or"
            " clip what Adam makes of the gradients:"
            " attach(optimizer, updates=clip_by_block_rms(1.0)).",
        )
