"""A gradient is NaN or Inf."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher
from clipwise.monitor.store import Level, Moment
from clipwise.monitor.wording import of, show

NONFINITE, SKIPPED, NORM = "clipwise/nonfinite", "clipwise/skipped", "clipwise/norm"


@dataclass(frozen=True, kw_only=True)
class GradientNonfinite(Rule):
    """Alerts if a gradient holds NaN or Inf, and names the first such parameter.

    With float16 and a gradient scaler, an occasional Inf is normal, since the scaler finds its scale that
    way: set the rule's patience to several steps there.

    Args:
        patience, cooldown, level, actions: as for `Rule`.

    >>> from clipwise.monitor.rules import Engine, Moment
    >>> layers = {"embed.weight": 0.1, "rnn.weight": float("inf")}
    >>> [alert] = Engine([GradientNonfinite()]).see(Moment(7, "", {"clipwise/nonfinite": 1.0}, layers))
    >>> print(alert.seen)
    The gradient holds NaN or Inf at step 7, first in rnn.weight (norm Inf).
    """

    patience: int = 1
    cooldown: int = 1000
    level: Level = "critical"
    actions: Sequence[Action] = ("record", "warn")
    name: ClassVar[str] = "gradient_nonfinite"

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(source)


class _Watcher(Watcher):
    def __init__(self, source: str) -> None:
        self._source = source
        self._bad = Moment(0, "", {})

    def judge(self, moment: Moment) -> bool | None:
        count = moment.values.get(NONFINITE)
        norm = moment.values.get(NORM, 0.0)
        bad = (count is not None and count > 0) or not -float("inf") < norm < float("inf")
        if bad or moment.worst is not None:
            self._bad = moment
            return True
        return None if count is None and NORM not in moment.values else False

    def finding(self) -> Finding:
        bad = self._bad
        worst, count = bad.worst, bad.values.get(NONFINITE, 0.0)
        where = "" if worst is None else f", first in {worst} (norm {show(bad.layers[worst])})"
        if count > 1:
            where += f"; {count:.0f} parameters are affected" if where else f", in {count:.0f} parameters"
        if not count and worst is None:  # entries are finite, their norm is beyond what can be written down
            where += f": its norm is {show(bad.values[NORM])}"
        if bad.values.get(SKIPPED, 0.0) > 0:
            why = "The step was skipped, so the weights are intact, but nothing was learned from it."
        else:
            why = "Such a step would spread NaN to the weights, after which every loss is NaN."
        place = "Look at the layer named" if worst is not None else "Record the norms of layers"
        return Finding(
            seen=f"The gradient{of(self._source)} holds NaN or Inf at step {bad.step:,}{where}.",
            why=why,
            advice='Skip such steps (nonfinite="skip"), lower the learning rate and clip by global norm.'
            f" {place}: log, sqrt, division or exp of extreme values are the usual origin. In float16 use a"
            " gradient scaler, or bfloat16.",
        )
