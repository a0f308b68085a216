"""The interface of rules: settings, and a watcher that judges one moment after the other."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from clipwise.checks import number_where, whole
from clipwise.errors import ArgumentError, did_you_mean
from clipwise.monitor.store import Alert, Level, Moment

Action: TypeAlias = Literal["record", "warn", "stop", "skip", "notify"] | Callable[[Alert], None]

ACTIONS = ("record", "warn", "stop", "skip", "notify")
LEVELS: tuple[str, ...] = get_args(Level)


@dataclass(frozen=True)
class Finding:
    """What a rule has found, in plain sentences: what was seen, why it matters, what to try."""

    seen: str
    why: str
    advice: str


class Watcher(ABC):
    """The state of a rule for one source of one run."""

    @abstractmethod
    def judge(self, moment: Moment) -> bool | None:
        """Whether this moment looks bad; None if it cannot be judged."""

    @abstractmethod
    def finding(self) -> Finding:
        """A description of the moment that was judged bad last."""


@dataclass(frozen=True, kw_only=True)
class Rule(ABC):
    """The settings of a rule. State is kept in its watchers.

    Args:
        patience: number of moments in a row, among those that can be judged, that must look bad before the
            rule raises an alert.
        cooldown: number of steps before it raises another one.
        level: ``"info"``, ``"warning"`` or ``"critical"``.
        actions: what happens with an alert: any of ``"record"``, ``"warn"``, ``"stop"``, ``"skip"``,
            ``"notify"``, and functions that take the `Alert`. Every alert is recorded in any case.

    Attributes:
        name: name of the rule, independent of its settings.

    Raises:
        ArgumentError: one of these is not allowed.
    """

    patience: int = 1
    cooldown: int = 1000
    level: Level = "warning"
    actions: Sequence[Action] = ("record", "warn")

    name: ClassVar[str]

    def __post_init__(self) -> None:
        steps("patience", self.patience)
        steps("cooldown", self.cooldown, low=0)
        if self.level not in LEVELS:
            raise ArgumentError(f"level must be one of {', '.join(map(repr, LEVELS))}, got {self.level!r}")
        given = self.actions
        actions = (given,) if isinstance(given, str) or not isinstance(given, Sequence) else tuple(given)
        for action in actions:
            if callable(action):
                continue
            if action not in ACTIONS:
                hint = did_you_mean(action, ACTIONS) if isinstance(action, str) else ""
                raise ArgumentError(
                    f"an action is one of {', '.join(map(repr, ACTIONS))} or a function that takes an Alert,"
                    f" got {action!r}. {hint}".rstrip()
                )
        object.__setattr__(self, "actions", actions)

    @abstractmethod
    def watch(self, source: str = "") -> Watcher:
        """A new watcher for a source ("" if there is only one)."""


def steps(name: str, value: Any, low: int = 1) -> None:
    """A number of steps or moments."""
    whole(name, value, low=low, allowed=f"a whole number from {low} on")


def number(name: str, value: Any, above: float = 0.0, below: float = math.inf) -> None:
    """A setting between two bounds, which it must not touch."""
    limit = f" and below {below:g}" if below < math.inf else ", and finite"
    number_where(name, value, lambda value: above < value < below, f"a number above {above:g}{limit}")
