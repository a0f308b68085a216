"""A clip of what each step of an optimizer does to the variables."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from clipwise.clip import AnyClip
from clipwise.errors import ArgumentError
from clipwise.functional.arguments import NonFinite
from clipwise.functional.arithmetic import arithmetic_of
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.clipping import clip_arrays
from clipwise.functional.context import StepContext
from clipwise.keras._after_step import NOTHING, AfterStep
from clipwise.keras._backends import backend
from clipwise.namespace import Array
from clipwise.report import ClipReport


class UpdateClipping(AfterStep):
    """A clip of the updates of one optimizer.

    Args:
        clip: what to do.
        nonfinite: as for `clipwise.keras.attach`.
    """

    of = "updates_"

    def __init__(self, clip: AnyClip, nonfinite: NonFinite) -> None:
        super().__init__(clip)
        self.nonfinite = nonfinite

    def around(
        self, optimizer: Any, variables: Sequence[Any], learning_rate: Array, update: Callable[[], None]
    ) -> None:
        """Make an update of these variables, and clip what it did.

        Raises:
            ArgumentError: an error is asked for of what is being compiled.
            NonFiniteError: with ``nonfinite="error"``; the variables are what they were.
        """
        assert self._plan is not None
        assert self.memory is not None
        if not variables:
            update()
            return
        places = [optimizer._get_variable_index(variable) for variable in variables]
        every = [backend().snapshot(variable) for variable in optimizer._trainable_variables]
        before = [every[place] for place in places]
        update()
        after = [backend().read(variable) for variable in variables]
        if self.nonfinite == "error" and backend().is_traced(after):
            raise ArgumentError('nonfinite="error" cannot raise from a compiled step')
        updates = [_difference(new, old, learning_rate) for new, old in zip(after, before, strict=True)]
        by_slot: list[Any] = [None] * len(self._slots)
        for place, one in zip(places, updates, strict=True):
            by_slot[place] = one
        arithmetic = arithmetic_of(updates)
        try:
            clipped, state, report = clip_arrays(
                self._plan,
                MeasuredArrays(arithmetic, self._slots, by_slot),
                MeasuredArrays(arithmetic, self._slots, every),
                self.memory.state(),
                StepContext(),
                self.nonfinite,
            )
        except Exception:
            backend().write(optimizer, variables, before)
            raise
        moved = [
            _moved(new, old, update, clipped[place], learning_rate)
            for new, old, update, place in zip(after, before, updates, places, strict=True)
        ]
        backend().write(optimizer, variables, moved)
        self.memory.remember(arithmetic, state, report, sorted(places))

    def report(self) -> ClipReport:
        """The report of the last step; an empty report before the first."""
        return NOTHING if self.memory is None else self.memory.report()


def _rate(learning_rate: Array, like: Array) -> Array:
    rate = keras.ops.cast(learning_rate, like.dtype)
    return keras.ops.where(rate == 0, keras.ops.ones_like(rate), rate)


def _difference(new: Array, old: Array, learning_rate: Array) -> Array:
    """What an update did without the learning rate, in float32 at least."""
    if keras.backend.standardize_dtype(new.dtype) in ("float16", "bfloat16"):
        new, old = keras.ops.cast(new, "float32"), keras.ops.cast(old, "float32")
    return (new - old) / _rate(learning_rate, new)


def _moved(new: Array, old: Array, update: Array, clipped: Array, learning_rate: Array) -> Array:
    """A variable after its clipped update: as the optimizer left it where that is what it was."""
    moved = keras.ops.cast(old, update.dtype) + clipped * _rate(learning_rate, update)
    return keras.ops.where(clipped == update, new, keras.ops.cast(moved, new.dtype))
