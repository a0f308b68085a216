"""Rule for a clip whose gradients are not those that the training uses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from clipwise.monitor.rules._base import Action, Finding, Rule, Watcher, steps
from clipwise.monitor.store import CLIP_CALLS, NORM, Level, Moment
from clipwise.monitor.wording import of


@dataclass(frozen=True, kw_only=True)
class ClipActsOnNothing(Rule):
    """Speaks when the gradient's norm was exactly 0 in all of the first recorded steps.

    And, of a script under ``clipwise observe``, when it calls torch's ``clip_grad_norm_`` or
    ``clip_grad_value_``, and none of its calls acted on a step: each found no gradient of what an optimizer
    steps on, or one that a step had used already.

    Args:
        first: recorded steps that are looked at.
    """

    patience: int = 1
    cooldown: int = 20_000
    level: Level = "warning"
    actions: Sequence[Action] = ("record", "warn")
    first: int = 20
    name: ClassVar[str] = "clip_acts_on_nothing"

    def __post_init__(self) -> None:
        super().__post_init__()
        steps("first", self.first)

    def watch(self, source: str = "") -> Watcher:
        return _Watcher(self, source)


class _Watcher(Watcher):
    def __init__(self, rule: ClipActsOnNothing, source: str) -> None:
        self._rule, self._source = rule, source
        self._zeros, self._step, self._calls = 0, 0, 0
        self._acts = False

    def judge(self, moment: Moment) -> bool | None:
        calls, acting = (moment.values.get(name) for name in CLIP_CALLS)
        if calls is not None and calls > 0 and acting == 0:
            self._step, self._calls = moment.step, int(calls)
            return True
        norm = moment.values.get(NORM)
        if norm is None or self._acts:
            return None
        self._acts = norm != 0
        self._zeros, self._step, self._calls = self._zeros + 1, moment.step, 0
        return None if self._acts else self._zeros >= self._rule.first

    def finding(self) -> Finding:
        if self._calls:
            return Finding(
                seen=f"The script called torch's clip functions {self._calls:,} times up to step"
                f" {self._step:,}, and no call acted on a step: each found no gradient of a parameter"
                " that an optimizer updates, or one that a step had used already.",
                why="Nothing is clipped: the training runs as it would without the call.",
                advice="Call it after backward and before step, with the parameters of the model that is"
                " trained: not with gradients, not with an exhausted generator, not with the parameters of"
                " another model or of the model before wrapping. clipwise observe --clip clips instead.",
            )
        return Finding(
            seen=f"The gradient's norm{of(self._source)} was 0 in each of the first {self._zeros:,} recorded"
            f" steps, up to step {self._step:,}.",
            why="The parameters that are measured and clipped get no gradient, so the clip has no effect, and"
            " the parameters that are trained are not clipped.",
            advice="Check that the clip is given the parameters of the model that is trained, that it runs"
            " after backward and before zero_grad, and that their optimizer does not normalise all"
            " gradients itself, as Muon does.",
        )
