"""The loss is NaN or Inf."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher
from clipwise.monitor.store import Level, Moment
from clipwise.monitor.wording import of, show


@dataclass(frozen=True, kw_only=True)
class LossNonfinite(Rule):
    """Alerts if a loss is NaN or Inf: ``"loss"``, and every name that is or ends in a loss (``val_loss``).

    Args:
        patience, cooldown, level, actions: as for `Rule`.

    >>> from clipwise.monitor.rules import Engine, Moment
    >>> [alert] = Engine([LossNonfinite()]).see(Moment(7, "", {"loss": float("inf")}))
    >>> print(alert.level, alert.seen)
    critical The loss is Inf at step 7.
    """

    patience: int = 1
    cooldown: int = 1000
    level: Level = "critical"
    actions: Sequence[Action] = ("record", "warn")
    name: ClassVar[str] = "loss_nonfinite"

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(source)


class _Watcher(Watcher):
    def __init__(self, source: str) -> None:
        self._source = source
        self._losses: dict[str, bool] = {}
        self._good: tuple[int, float] | None = None
        self._bad: tuple[int, str, float] = (0, "loss", 0.0)

    def judge(self, moment: Moment) -> bool | None:
        known: bool | None = None
        for name, value in moment.values.items():
            is_loss = self._losses.get(name)
            if is_loss is None:
                is_loss = self._losses[name] = _is_loss(name)
            if not is_loss:
                continue
            if not -float("inf") < value < float("inf"):
                self._bad = moment.step, name, value
                return True
            known = False
            if name == "loss":
                self._good = moment.step, value
        return known

    def finding(self) -> Finding:
        step, name, value = self._bad
        before = ""
        if name == "loss" and self._good is not None:
            before = f"; the last finite one was {show(self._good[1])} at step {self._good[0]:,}"
        return Finding(
            seen=f"The {name.replace('_', ' ')}{of(self._source)} is {show(value)} at step {step:,}{before}.",
            why="Its gradient is NaN or Inf as well: a step with it would ruin the weights, and no later step"
            " can mend them.",
            advice="Go back to the last good checkpoint, lower the learning rate (to a third, say) or"
            " lengthen its warm-up, and clip by global norm. If it happens at the first steps, look for"
            " log(0), a division by 0 or bad values in the data.",
        )


def _is_loss(name: str) -> bool:
    return name.rpartition("/")[2].endswith("loss") or name.startswith("loss/")
