"""Update clipping for optax: what an optimizer is about to do is bounded, whatever optimizer it is."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_update_clip
from clipwise.errors import ArgumentError
from clipwise.functional.arguments import NonFinite
from clipwise.functional.clipping import ClipState
from clipwise.functional.slots import UnitAxes
from clipwise.jax._left_out import unless
from clipwise.jax._packed import OfUpdates, unpack
from clipwise.jax.transform import Rate, TransformState, Updater, refuse_no_number
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["UpdatesState", "clipping_updates"]


class UpdatesState(NamedTuple):
    """The state of an optimizer whose updates are clipped: one fixed structure.

    Attributes:
        clip: what the thresholds remember.
        updates: the last report, as one array.
        skipped_steps: how many steps were not taken so far, as their update held NaN or Inf.
        inner: the state of the optimizer.
    """

    clip: ClipState
    updates: OfUpdates
    skipped_steps: Array
    inner: Any

    @property
    def report(self) -> ClipReport:
        """What was done to the update of the last step; before the first, of norm 0."""
        return unpack(self.updates.packed)


def clipping_updates(
    optimizer: optax.GradientTransformation,
    clip: AnyClip | str | Mapping[str, Any],
    learning_rate: Rate | None,
    nonfinite: NonFinite,
    unit_axes: UnitAxes | None,
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, whose updates without the learning rate, ``update / lr``, are clipped.

    Raises:
        ArgumentError: the learning rate is not known or no rate, or the clip is none for updates.
    """
    clip = as_update_clip(clip, no_moments_in="optax")
    if learning_rate is None:
        raise ArgumentError(
            "updates= measures updates without the learning rate, which optax does not tell: give"
            " learning_rate=, the number or the schedule that the optimizer has; or put the clip before the"
            " rate: optax.chain(optax.scale_by_adam(), clipwise.jax.transform(clip), optax.scale(-rate))"
        )
    refuse_no_number("learning_rate", learning_rate, schedules=True)
    updater = Updater(clip, None, None, False, nonfinite, unit_axes)
    made = _ClippedUpdates(optax.with_extra_args_support(optimizer), updater, learning_rate)
    return optax.GradientTransformationExtraArgs(made.init, made.update)


class _ClippedUpdates:
    """The two functions of the optimizer: methods, which can be pickled where what it holds can."""

    def __init__(
        self, inner: optax.GradientTransformationExtraArgs, updater: Updater, learning_rate: Rate
    ) -> None:
        self.inner, self.updater, self.learning_rate = inner, updater, learning_rate

    def init(self, params: Any) -> UpdatesState:
        clip, packed = self.updater.init(params)
        skipped = jnp.zeros((), jnp.int32) if isinstance(clip, ClipState) else 0
        return UpdatesState(clip, OfUpdates(packed), skipped, self.inner.init(params))

    def update(
        self, gradients: Any, state: UpdatesState, params: Any = None, **extra: Any
    ) -> tuple[Any, UpdatesState]:
        taken = state.clip.step - state.skipped_steps
        rate = self.learning_rate(taken) if callable(self.learning_rate) else self.learning_rate
        rate = jnp.where(rate == 0, 1.0, rate)
        steps, inner = self.inner.update(gradients, state.inner, params, **extra)
        updates = jax.tree.map(lambda step: _divided(step, rate), steps)
        before = TransformState(state.clip, state.updates.packed)
        clipped, after = self.updater.update(updates, before, params, None, taken)
        steps = jax.tree.map(lambda s, u, c: _moved(s, u, c, rate), steps, updates, clipped)
        count = state.skipped_steps
        if self.updater.nonfinite == "skip":
            skipped = after.report.skipped
            steps, inner = unless(skipped, steps, state.inner, inner)
            count = count + skipped.astype(count.dtype)
        return steps, UpdatesState(after.clip, OfUpdates(after.packed), count, inner)


def _divided(step: Any, rate: Array) -> Any:
    """A step without its learning rate, in float32 at least; what is no array of floats is as it is."""
    dtype = getattr(step, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return step
    step = step.astype(jnp.promote_types(dtype, jnp.float32))
    return step / rate.astype(step.real.dtype)


def _moved(step: Any, update: Any, clipped: Any, rate: Array) -> Any:
    """The step of a clipped update; where the clip left it, bit for bit the one that the optimizer made."""
    if step is update:
        return step
    moved = clipped * rate.astype(clipped.real.dtype)
    return jnp.where(clipped == update, step, moved.astype(step.dtype))
