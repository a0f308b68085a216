"""A clip of the weights after each step of an optimizer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipwise.clip import AnyClip
from clipwise.functional.arithmetic import arithmetic_of
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.bounds import of_measure
from clipwise.functional.clipping import clip_arrays
from clipwise.functional.context import StepContext
from clipwise.functional.plan import Plan, make_plan
from clipwise.functional.slots import Slot
from clipwise.keras._backends import backend
from clipwise.keras._memory import Memory
from clipwise.report import ClipReport


class WeightClipping:
    """A clip of the weights of one optimizer.

    Args:
        clip: what to do.

    Attributes:
        memory: what is kept between steps, from the time when the optimizer is built.
    """

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
        self.memory = Memory(optimizer, self._plan, slots, loss=False, of="weights_")

    def __call__(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """Bound these variables of the optimizer."""
        assert self._plan is not None
        assert self.memory is not None
        if not variables:
            return
        places = [optimizer._get_variable_index(variable) for variable in variables]
        every = self._read(optimizer)
        chosen = set(places)
        arithmetic = arithmetic_of(every)
        clipped, state, report = clip_arrays(
            self._plan,
            MeasuredArrays(
                arithmetic, self._slots, [w if i in chosen else None for i, w in enumerate(every)]
            ),
            MeasuredArrays(arithmetic, self._slots, every),
            self.memory.state(),
            StepContext(),
            "propagate",
        )
        backend().write(optimizer, variables, [clipped[place] for place in places])
        self.memory.remember(arithmetic, state, report, sorted(places))

    def report(self, optimizer: Any) -> ClipReport:
        """The report of the last step, with the share at the bound of the weights as they are now."""
        if self.memory is None:
            return ClipReport(
                norm=0.0,
                norm_after=0.0,
                threshold=float("inf"),
                clipped=False,
                clip_fraction=0.0,
                at_bound=np.float64(0.0),
            )
        report, every = self.memory.report(), self._read(optimizer)
        clipped = [
            w if slot.name in report.names else None for slot, w in zip(self._slots, every, strict=True)
        ]
        measure = MeasuredArrays(arithmetic_of(every), self._slots, clipped)
        return dataclasses.replace(report, at_bound=of_measure(measure, self.clip, report))

    def _read(self, optimizer: Any) -> list[Any]:
        return [backend().read(variable) for variable in optimizer._trainable_variables]
