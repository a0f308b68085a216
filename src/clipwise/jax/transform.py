"""Clipping as an optax transformation."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clipwise import checks
from clipwise.clip import AnyClip, leaves_steps_out
from clipwise.config.arguments import as_clip
from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError, ParameterError, StateError
from clipwise.functional.arguments import NonFinite, as_nonfinite
from clipwise.functional.clipping import ClipState
from clipwise.functional.context import StepContext
from clipwise.functional.slots import Slot, UnitAxes
from clipwise.jax import _trees, reports
from clipwise.jax._packed import Packed, blank, form_of, known_to_flax, pack, unpack
from clipwise.jax._step import first_state, step
from clipwise.jax.functional import raise_nonfinite, refuse_error_while_tracing
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["Rate", "TransformState", "Updater", "loss_of", "refuse_no_number", "transform"]

Rate: TypeAlias = Array | Callable[[Array], Array]
"""A learning rate, or a schedule of it: a function of the number of steps taken, as optax' are."""


class TransformState(NamedTuple):
    """The state of `transform`. Its structure never changes, so a step is compiled once.

    Attributes:
        clip: state of the thresholds.
        packed: the last report, as one array.
    """

    clip: ClipState
    packed: Packed

    @property
    def report(self) -> ClipReport:
        """The report of the last step; with norm 0 before the first."""
        return unpack(self.packed)


def transform(
    clip: AnyClip | str | Mapping[str, Any],
    *,
    learning_rate: Rate | None = None,
    momentum: Array | None = None,
    scale_free: bool = False,
    nonfinite: NonFinite = "propagate",
    unit_axes: UnitAxes | None = None,
) -> optax.GradientTransformationExtraArgs:
    """A clip as a gradient transformation for `optax.chain` and similar functions.

    ``update(grads, state, params=None, *, value=None)``. ``value`` is the loss, as elsewhere in optax, for
    thresholds that follow it; ``loss`` is accepted too. ``params`` is needed by thresholds that depend on
    weights, and if a gradient is None.

    After an optimizer it clips updates: ``optax.chain(optax.scale_by_adam(),
    transform(clip_by_block_rms(1.0)), optax.scale(-rate))`` is Adam with the update clipping of Adafactor.

    Args:
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`.
        learning_rate, momentum, scale_free: those of the optimizer that follows, for `clipwise.auto`.
        nonfinite: ``"propagate"`` or ``"zero"``, outside of compiled functions also ``"error"``. A member of
            a chain cannot make the others skip a step: for ``"skip"`` use `attach`.
        unit_axes: as for `clip`.

    Returns:
        An `optax.GradientTransformationExtraArgs`.

    Raises:
        ArgumentError: an argument is not allowed.

    >>> import jax.numpy as jnp, optax, clipwise, clipwise.jax
    >>> params = {"w": jnp.zeros(2)}
    >>> optimizer = optax.chain(clipwise.jax.transform(clipwise.clip_by_global_norm(1.0)), optax.sgd(1.0))
    >>> updates, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init(params), params)
    >>> print(updates["w"])
    [-0.6 -0.8]
    """
    if nonfinite == "skip":
        raise ArgumentError(
            'nonfinite="skip" cannot stop what comes after it in a chain: use'
            " clipwise.jax.attach(optimizer, clip), or nonfinite='zero' here"
        )
    clip = as_clip(clip)
    if leaves_steps_out(clip):
        raise ArgumentError(
            f"{spelled(clip)} cannot stop what comes after it in a chain: use"
            " clipwise.jax.attach(optimizer, clip)"
        )
    made = _Transform(Updater(clip, learning_rate, momentum, scale_free, nonfinite, unit_axes))
    return optax.GradientTransformationExtraArgs(made.init, made.update)


class _Transform:
    """The two functions of a transformation: methods, which can be pickled, and not closures."""

    def __init__(self, updater: "Updater") -> None:
        self.updater = updater

    def init(self, params: Any) -> TransformState:
        return self.updater.init(params)

    def update(
        self, updates: Any, state: TransformState, params: Any = None, **extra: Any
    ) -> tuple[Any, TransformState]:
        if not isinstance(state, TransformState):
            raise StateError(f"expected the state of clipwise.jax.transform, got {type(state).__name__}")
        return self.updater.update(updates, state, params, loss_of(extra), state.clip.step)


def loss_of(extra: Mapping[str, Any]) -> Array | None:
    """The loss among the extra arguments of ``update``."""
    loss = extra.get("loss")
    return extra.get("value") if loss is None else loss


def refuse_no_number(name: str, value: Any, *, schedules: bool = False) -> None:
    """ArgumentError unless this is a number of at least 0, an array of one, None, or a schedule."""
    array = hasattr(value, "dtype") and np.shape(value) == ()
    if value is None or (schedules and callable(value)) or (array and not checks.is_number(value)):
        return
    allowed = "a number of at least 0" + (", or a schedule" if schedules else "")
    checks.number_where(name, value, lambda number: number >= 0, allowed)


class Updater:
    """The clip inside of `transform` and `attach`; immutable."""

    def __init__(
        self,
        clip: AnyClip | str | Mapping[str, Any],
        learning_rate: Rate | None,
        momentum: Array | None,
        scale_free: bool,
        nonfinite: NonFinite,
        unit_axes: UnitAxes | None,
    ) -> None:
        self.clip = as_clip(clip)
        refuse_no_number("learning_rate", learning_rate, schedules=True)
        refuse_no_number("momentum", momentum)
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.scale_free = scale_free
        self.nonfinite = as_nonfinite(nonfinite)
        self.unit_axes = unit_axes
        known_to_flax()

    def init(self, params: Any) -> TransformState:
        """The state before the first step."""
        known_to_flax()  # which may be loaded by now, as where this was unpickled
        if type(params).__name__ == "_ParamsPlaceholder":
            # How optax.tree_map_params finds what is like the parameters in a state: nothing here is.
            return TransformState(0, 0)  # type: ignore[arg-type]
        laid = _trees.lay_out(params, None, self.unit_axes, "parameter")
        state = first_state(self.clip, laid.slots)

        def first_report(gradients: list[Array | None]) -> ClipReport:
            rate = self.learning_rate(state.step) if callable(self.learning_rate) else self.learning_rate
            context = StepContext(
                learning_rate=rate, momentum=self.momentum, scale_free=self.scale_free, loss=jnp.zeros(())
            )
            _, _, report = self._step(laid.slots, gradients, gradients, state, context)
            return reports.spread(report, laid.slots)

        return TransformState(state, blank(form_of(jax.eval_shape(first_report, laid.gradients))))

    def update(
        self, updates: Any, state: TransformState, params: Any, loss: Array | None, taken: Array
    ) -> tuple[Any, TransformState]:
        """The clipped updates and the next state.

        Args:
            loss: loss of this step.
            taken: number of steps that the optimizer has taken.
        """
        laid = _trees.lay_out(updates, params, self.unit_axes)
        form = state.packed.form
        self._refuse_others(laid.slots, form.names)
        if self.nonfinite == "error":
            refuse_error_while_tracing(laid.gradients)
        rate = self.learning_rate(taken) if callable(self.learning_rate) else self.learning_rate
        context = StepContext(
            learning_rate=rate, momentum=self.momentum, scale_free=self.scale_free, loss=loss
        )
        out, after, report = self._step(laid.slots, laid.gradients, laid.weights, state.clip, context)
        if self.nonfinite == "error":
            raise_nonfinite(report)
        # Without any gradient there was no step of the report's form.
        packed = pack(reports.spread(report, laid.slots), form) if report.names else blank(form)
        return laid.rebuilt(out), TransformState(after, packed)

    def _step(
        self, slots: tuple[Slot, ...], gradients: Any, weights: Any, state: ClipState, context: StepContext
    ) -> tuple[list[Array | None], ClipState, ClipReport]:
        inside: NonFinite = "propagate" if self.nonfinite == "error" else self.nonfinite
        return step(self.clip, slots, gradients, weights, state, context, inside)

    def _refuse_others(self, slots: tuple[Slot, ...], last: tuple[str, ...]) -> None:
        names = tuple(slot.name for slot in slots)
        if names == last:
            return
        missing = [name for name in last if name not in names]
        if missing:
            raise ParameterError(
                f"{missing[0]!r} was among the parameters that init saw and has no gradient now:"
                " give params to update"
            )
        new = next(name for name in names if name not in last)
        raise ParameterError(f"{new!r} was not among the parameters that init saw: call init again")
