"""What clips of weights and of updates have in common: both act after a step of the optimizer."""

from collections.abc import Sequence
from typing import Any, ClassVar

from clipwise.clip import AnyClip
from clipwise.functional.plan import Plan, make_plan
from clipwise.functional.slots import Slot
from clipwise.keras._memory import Memory
from clipwise.report import ClipReport

NOTHING = ClipReport(norm=0.0, norm_after=0.0, threshold=float("inf"), clipped=False, clip_fraction=0.0)
"""The report before the first step."""


class AfterStep:
    """A clip that acts on the variables of one optimizer after its step.

    Args:
        clip: what to do.

    Attributes:
        memory: what is kept between steps, from the time when the optimizer is built.
    """

    of: ClassVar[str]
    """What the names of the variables that are kept begin with."""

    def __init__(self, clip: AnyClip) -> None:
        self.clip = clip
        self.memory: Memory | None = None
        self._plan: Plan | None = None
        self._slots: Sequence[Slot] = ()

    def build(self, optimizer: Any, slots: Sequence[Slot]) -> None:
        """Lay the clip out over the variables of the optimizer.

        Raises:
            ParameterError: a pattern matches none of them.
        """
        self._plan, self._slots = make_plan(self.clip, slots), slots
        self.memory = Memory(optimizer, self._plan, slots, loss=False, of=self.of)
