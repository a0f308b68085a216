"""A clip of the weights after each step of an optimizer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipwise.functional.arithmetic import arithmetic_of
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.bounds import of_measure
from clipwise.functional.clipping import clip_arrays
from clipwise.functional.context import StepContext
from clipwise.keras._after_step import NOTHING, AfterStep
from clipwise.keras._backends import backend
from clipwise.report import ClipReport


class WeightClipping(AfterStep):
    """A clip of the weights of one optimizer."""

    of = "weights_"

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
            return dataclasses.replace(NOTHING, at_bound=np.float64(0.0))
        report, every = self.memory.report(), self._read(optimizer)
        clipped = [
            w if slot.name in report.names else None for slot, w in zip(self._slots, every, strict=True)
        ]
        measure = MeasuredArrays(arithmetic_of(every), self._slots, clipped)
        return dataclasses.replace(report, at_bound=of_measure(measure, self.clip, report))

    def _read(self, optimizer: Any) -> list[Any]:
        return [backend().read(variable) for variable in optimizer._trainable_variables]
