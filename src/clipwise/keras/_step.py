"""A clip for one optimizer: laid out over its variables when it is built, applied in each step."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from clipwise import config
from clipwise.clip import AnyClip, clip_by_global_norm
from clipwise.errors import ArgumentError, ParameterError
from clipwise.functional.arguments import NonFinite, may_leave_out
from clipwise.functional.arithmetic import Arithmetic, arithmetic_of
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.clipping import clip_arrays
from clipwise.functional.context import StepContext
from clipwise.functional.plan import Plan, make_plan
from clipwise.functional.slots import Slot, UnitAxes, make_slots
from clipwise.keras._backends import backend
from clipwise.keras._memory import Memory
from clipwise.keras._updates import UpdateClipping
from clipwise.keras._variables import named_shapes, units_of_layers
from clipwise.keras._weights import WeightClipping
from clipwise.namespace import Array
from clipwise.report import ClipReport

_OWN = ("clipnorm", "global_clipnorm", "clipvalue")

_here = threading.local()
"""The variables of the step that this thread makes: replicas are traced in threads of their own."""


@contextmanager
def stepping(variables: Sequence[Any]) -> Iterator[None]:
    """Keep the variables of the step that is being made where its clipping finds them."""
    before = step_variables()
    _here.variables = variables
    try:
        yield
    finally:
        _here.variables = before


def step_variables() -> Sequence[Any] | None:
    """The variables of the step that this thread makes now, None between steps."""
    return getattr(_here, "variables", None)


class Clipping:
    """A clip at work in one optimizer.

    Args:
        clip: the clip; None: measure the gradients and leave them unchanged.
        weights: a clip for the weights after each step.
        updates: a clip for the update of each step.
        model: its layers tell where the units of a kernel lie; released once that is known.
        nonfinite, direction: as for `clipwise.keras.attach`.
        unit_axes: the user's axes of units.
        units: the layers' axes of units, from a saved model.
        saved: names and shapes of the variables of a saved model. Keras may give them other paths when it is
            loaded (those of a Sequential lose the model's name), and patterns must match as before.

    Attributes:
        measures: whether gradients are only measured.
        leaves_out: whether a step may be skipped.
        memory: the state between steps, once the optimizer is built.
        plan, slots: the clip laid out over the variables, once the optimizer is built.
    """

    def __init__(
        self,
        clip: AnyClip | None,
        *,
        weights: WeightClipping | None = None,
        updates: UpdateClipping | None = None,
        model: Any = None,
        nonfinite: NonFinite = "skip",
        unit_axes: UnitAxes | None = None,
        direction: bool = False,
        units: Mapping[str, Sequence[int]] | None = None,
        saved: Sequence[tuple[str, tuple[int, ...]]] = (),
    ) -> None:
        self.clip = clip_by_global_norm(float("inf")) if clip is None else clip
        self.measures = clip is None
        self.weights = weights
        self.updates = updates
        self.nonfinite: NonFinite = nonfinite
        self.leaves_out = may_leave_out(self.clip, nonfinite)
        self.unit_axes = unit_axes
        self.direction = direction
        self.units = {name: tuple(axes) for name, axes in (units or {}).items()}
        self.slots: tuple[Slot, ...] = ()
        self._model = model
        self._saved = list(saved)
        self.memory: Memory | None = None
        self.plan: Plan | None = None
        self._hears = False
        self._early: list[Array] = []

    def build(self, optimizer: Any, variables: Sequence[Any]) -> None:
        """Lay the clip out over the variables of the optimizer, and create its own variables.

        Raises:
            ParameterError: a pattern matches none of them, or one is listed twice.
        """
        if len({id(variable) for variable in variables}) < len(variables):
            raise ParameterError("a variable is listed twice: give each once, with the sum of its gradients")
        shapes = named_shapes(variables)
        if [shape for _, shape in shapes] == [shape for _, shape in self._saved]:
            shapes = self._saved
        if self._model is not None:
            units = units_of_layers(self._model, variables)
            pairs = zip(variables, shapes, strict=True)
            self.units |= {name: units[id(v)] for v, (name, _) in pairs if id(v) in units}
            self._model = None
        slots = make_slots(shapes, self.unit_axes, self.units)
        self.plan = make_plan(self.clip, slots)
        self.slots = slots
        self.memory = Memory(optimizer, self.plan, self.slots, loss="loss" in self.plan.sees())
        if self.weights is not None:
            self.weights.build(optimizer, slots)
        if self.updates is not None:
            self.updates.build(optimizer, slots)
        for loss in self._early:
            self.memory.hear(loss)
        self._early = []

    @property
    def variables(self) -> list[Any]:
        """All variables that it has created in the optimizer."""
        parts = (self, self.weights, self.updates)
        memories = (part.memory for part in parts if part is not None)
        return [variable for memory in memories if memory is not None for variable in memory.variables]

    def hear(self, loss: Array) -> None:
        """Add the loss of the coming step."""
        self._hears = True
        if self.memory is None:
            self._early.append(loss)
        else:
            self.memory.hear(loss)

    def report(self) -> ClipReport:
        """The report of the last step; an empty report before the first."""
        if self.memory is None:
            return ClipReport(
                norm=0.0, norm_after=0.0, threshold=float("inf"), clipped=False, clip_fraction=0.0
            )
        return self.memory.report()

    def __call__(self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
        """The clipped gradients of these variables; zeros if the step is skipped.

        Raises:
            ArgumentError: the optimizer clips itself, or ``nonfinite="error"`` in a compiled step.
            ParameterError: a threshold needs the loss, and it was not observed.
            NonFiniteError: with ``nonfinite="error"``.
        """
        if not self.measures:
            refuse_own_clips(optimizer)
        assert self.plan is not None
        assert self.memory is not None
        if "loss" in self.plan.needs() and not self._hears:
            raise ParameterError(
                f"{config.to_string(self.clip)} follows the loss, which Keras does not pass to optimizers:"
                " call clipwise.keras.observe(optimizer, loss) before each apply, in a train_step or loop of"
                " your own"
            )
        arrays, back = backend().prepare(optimizer, gradients, self._takes_whole())
        if self.nonfinite == "error" and backend().is_traced(arrays):
            raise ArgumentError(
                'nonfinite="error" cannot raise from a compiled step: use "skip", "zero" or "propagate", or'
                " compile the model with run_eagerly=True"
            )
        places = [optimizer._get_variable_index(variable) for variable in variables]
        by_slot: list[Any] = [None] * len(self.slots)
        for place, array in zip(places, arrays, strict=True):
            by_slot[place] = array
        arithmetic = arithmetic_of(arrays)
        clipped, state, report = clip_arrays(
            self.plan,
            MeasuredArrays(arithmetic, self.slots, by_slot),
            self._weights(optimizer, arithmetic),
            self.memory.state(),
            self._context(optimizer, arithmetic),
            self.nonfinite,
            direction=self.direction,
        )
        self.memory.remember(arithmetic, state, report, sorted(places))
        found: list[Any] = back([clipped[place] for place in places])
        return found

    def _takes_whole(self) -> bool:
        """Whether the rows of a sparse gradient alone would not do: units and ranges see its zeros too."""
        assert self.plan is not None
        for stage in self.plan.stages():
            ranged = isinstance(stage.clip.threshold, tuple)
            if stage.clip.per == "unit" or ranged or stage.thresholds.by_entry:
                return True
        return False

    def _weights(self, optimizer: Any, arithmetic: Arithmetic) -> MeasuredArrays | None:
        assert self.plan is not None
        if "weight_norm" not in self.plan.sees():
            return None
        arrays = [backend().read(variable) for variable in optimizer._trainable_variables]
        return MeasuredArrays(arithmetic, self.slots, arrays)

    def _context(self, optimizer: Any, arithmetic: Arithmetic) -> StepContext:
        assert self.plan is not None
        assert self.memory is not None
        seen, xp = self.plan.sees(), arithmetic.xp
        parts = getattr(optimizer, "optimizers", None) or [optimizer]
        rate = momentum = None
        if "learning_rate" in seen:
            rates = [part.learning_rate for part in parts]
            rates = [backend().read(r) if isinstance(r, keras.Variable) else r for r in rates]
            rate = xp.max(xp.stack([xp.astype(xp.asarray(r), xp.float_dtype) for r in rates]))
        if "momentum" in seen:
            momentum = max(float(getattr(part, "momentum", 0.0) or 0.0) for part in parts)
        return StepContext(
            learning_rate=rate,
            momentum=momentum,
            scale_free=any(map(_is_scale_free, parts)),
            loss=self.memory.loss() if self._hears else None,
        )


def refuse_own_clips(optimizer: Any) -> None:
    """Raise ArgumentError if Keras clips too, or could be expected to."""
    for name in _OWN:
        if getattr(optimizer, name, None) is not None:
            raise ArgumentError(
                f"this optimizer clips by itself, with {name}={getattr(optimizer, name):g}: create it"
                " without, or do not attach a clip"
            )


def _is_scale_free(optimizer: Any) -> bool:
    """Whether the optimizer divides by the gradient's own size; only the SGD family is known not to."""
    return not (isinstance(optimizer, keras.optimizers.SGD) or "sgd" in type(optimizer).__name__.lower())
