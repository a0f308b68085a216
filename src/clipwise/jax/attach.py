"""A clip around a whole optax optimizer, so that a step with NaN or Inf can be skipped."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from clipwise.clip import AnyClip, clip_by_global_norm
from clipwise.errors import ArgumentError, StateError
from clipwise.functional.arguments import NonFinite, may_leave_out
from clipwise.functional.clipping import ClipState
from clipwise.functional.slots import UnitAxes
from clipwise.jax._left_out import unless
from clipwise.jax._packed import Packed, unpack
from clipwise.jax.transform import Rate, TransformState, Updater, loss_of
from clipwise.jax.updates import UpdatesState, clipping_updates
from clipwise.jax.weights import clip_weights
from clipwise.namespace import Array
from clipwise.report import ClipReport

__all__ = ["AttachState", "attach"]


class AttachState(NamedTuple):
    """The state of `attach`. Its structure never changes, so a step is compiled once.

    Attributes:
        clip: state of the thresholds.
        packed: the last report, as one array.
        skipped_steps: number of skipped steps so far.
        inner: state of the optimizer.
    """

    clip: ClipState
    packed: Packed
    skipped_steps: Array
    inner: Any

    @property
    def report(self) -> ClipReport:
        """The report of the last step; before the first step its norm is 0."""
        return unpack(self.packed)


def attach(
    optimizer: optax.GradientTransformation,
    clip: AnyClip | str | Mapping[str, Any] | None = None,
    *,
    weights: AnyClip | str | Mapping[str, Any] | None = None,
    updates: AnyClip | str | Mapping[str, Any] | None = None,
    nonfinite: NonFinite = "skip",
    learning_rate: Rate | None = None,
    momentum: Array | None = None,
    scale_free: bool = False,
    unit_axes: UnitAxes | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optax optimizer so that gradients are clipped before every step.

    A step is skipped if its gradients or its update hold NaN or Inf, or if a clip with ``action="skip"`` says
    so. The updates of a skipped step are zeros, and the optimizer's state does not change. The result is used
    like any optax optimizer; ``update`` also accepts ``value=loss``, and passes all its arguments on.

    Args:
        optimizer: any optax optimizer. For accumulation wrap the result in `optax.MultiSteps`.
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`. With None the gradients are
            only measured.
        weights: a clip for the weights after every step, such as ``clip_by_value(0.01)`` for WGAN. The
            updates are changed so that `optax.apply_updates` gives clipped weights; see `clip_weights`. Its
            report is `weights_report`.
        updates: a clip for the update of every step, after the optimizer has computed it from the gradient.
            ``clip_by_block_rms(1.0)`` is the update clipping of Adafactor (Shazeer and Stern 2018,
            arXiv:1804.04235, section 6), for any optimizer. ``u = update / learning_rate`` is measured and
            clipped, and the update becomes ``learning_rate * clipped(u)``. This includes what the optimizer
            adds before it applies the rate, such as decoupled weight decay. Its report is `updates_report`.
        nonfinite: ``"skip"``, ``"zero"`` or ``"propagate"``, outside compiled functions also ``"error"``; see
            `clipwise.jax.clip`.
        learning_rate: the optimizer's learning rate, a number or a schedule. ``updates`` requires it, and
            `clipwise.auto` uses it. A schedule is called with the number of steps taken, as in optax; a rate
            of 0 counts as 1 for ``updates``. With `optax.inject_hyperparams` the injected rate is used.
        momentum, scale_free: of the optimizer, for `clipwise.auto`; see `thresholds.Observation`.
        unit_axes: as for `clip`; also applies to ``weights`` and ``updates``.

    Returns:
        An `optax.GradientTransformationExtraArgs`, whose state is read by `report`.

    Raises:
        ArgumentError: the first argument is not an optax optimizer, ``updates`` is given without a
            ``learning_rate`` or with a clip that follows the loss, or another argument is not allowed.

    >>> import jax.numpy as jnp, optax, clipwise, clipwise.jax
    >>> optimizer = clipwise.jax.attach(optax.adam(0.1), clipwise.clip_by_global_norm(1.0))
    >>> params = {"w": jnp.zeros(2)}
    >>> state = optimizer.init(params)
    >>> updates, state = optimizer.update({"w": jnp.array([3.0, jnp.nan])}, state, params)
    >>> print(updates["w"], state.skipped_steps, clipwise.jax.report(state))
    [0. 0.] 1 step skipped: 1 tensors not finite, first w
    """
    _refuse_non_optimizer(optimizer)
    if clip is None:
        if weights is None and updates is None:
            raise ArgumentError(
                "expected a clip such as clipwise.clip_by_global_norm(1.0), or weights= or updates=, got None"
            )
        clip = clip_by_global_norm(float("inf"))
    if updates is not None:
        optimizer = clipping_updates(optimizer, updates, learning_rate, nonfinite, unit_axes)
    if weights is not None:
        optimizer = optax.chain(optimizer, clip_weights(weights, unit_axes=unit_axes))
    updater = Updater(clip, learning_rate, momentum, scale_free, nonfinite, unit_axes)
    made = _Attached(updater, optax.with_extra_args_support(optimizer))
    return optax.GradientTransformationExtraArgs(made.init, made.update)


class _Attached:
    """The two functions of the optimizer: methods, which can be pickled where what it holds can."""

    def __init__(self, updater: Updater, inner: optax.GradientTransformationExtraArgs) -> None:
        self.updater = updater
        self.inner = inner

    def init(self, params: Any) -> AttachState:
        state = self.updater.init(params)
        placeholder = not isinstance(state.clip, ClipState)
        skipped = 0 if placeholder else jnp.zeros((), jnp.int32)
        return AttachState(state.clip, state.packed, skipped, self.inner.init(params))

    def update(
        self, updates: Any, state: AttachState, params: Any = None, **extra: Any
    ) -> tuple[Any, AttachState]:
        if not isinstance(state, AttachState):
            raise StateError(f"expected the state of clipwise.jax.attach, got {type(state).__name__}")
        taken = state.clip.step - state.skipped_steps
        before = TransformState(state.clip, state.packed)
        clipped, after = self.updater.update(updates, before, params, loss_of(extra), taken)
        steps, own = self.inner.update(clipped, state.inner, params, **extra)
        count = state.skipped_steps
        if may_leave_out(self.updater.clip, self.updater.nonfinite):
            skipped = after.report.skipped
            steps, own = unless(skipped, steps, state.inner, own)
            count = count + skipped.astype(count.dtype)
        then, now = _of_updates(state.inner), _of_updates(own)
        if then is not None and now is not None:
            count = count + (now.skipped_steps - then.skipped_steps)
        return steps, AttachState(after.clip, after.packed, count, own)


def _of_updates(inner: Any) -> UpdatesState | None:
    """The state of the clip of updates, if there is one; in a chain the clip of weights comes after it."""
    first = inner[0] if type(inner) is tuple and inner else inner
    return first if isinstance(first, UpdatesState) else None


def _refuse_non_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, optax.MultiSteps):
        raise ArgumentError(
            "this would clip every micro-batch; accumulate outside:"
            " optax.MultiSteps(clipwise.jax.attach(optimizer, clip), k)"
        )
    if not callable(getattr(optimizer, "init", None)) or not callable(getattr(optimizer, "update", None)):
        hint = " (did you call it, as in optax.adam(1e-3)?)" if callable(optimizer) else ""
        raise ArgumentError(f"expected an optimizer of optax, got {optimizer!r}{hint}")
