"""Clipping as a pure function of gradients, state and variables."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import tensorflow as tf

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_clip
from clipwise.errors import ArgumentError
from clipwise.functional.arguments import NonFinite, as_nonfinite
from clipwise.functional.arithmetic.tensorflow import TensorFlowArithmetic
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.clipping import ClipState, clip_arrays, init_state
from clipwise.functional.context import StepContext
from clipwise.functional.plan import make_plan
from clipwise.functional.slots import UnitAxes
from clipwise.namespace import Array
from clipwise.report import ClipReport
from clipwise.tensorflow import _sparse, _states
from clipwise.tensorflow._layout import lay_out, slots_of

__all__ = ["clip", "init"]

F = TypeVar("F", bound=Callable[..., Any])


def as_it_is(function: F) -> F:
    """A function that AutoGraph does not rewrite inside of `tf.function`, nor the functions that it calls."""
    return cast(F, tf.autograph.experimental.do_not_convert(function))


@as_it_is
def init(
    clip: AnyClip | str | Mapping[str, Any], variables: Any, *, unit_axes: UnitAxes | None = None
) -> ClipState:
    """The state of a clip before the first step: NamedTuples of tensors.

    Args:
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`.
        variables: the trained variables, in the order in which `clip` receives them; or their gradients.
        unit_axes: as for `clip`.

    Raises:
        ParameterError: a pattern of `by_name` or of ``unit_axes`` matches no variable.

    >>> import tensorflow as tf, clipwise, clipwise.tensorflow
    >>> state = clipwise.tensorflow.init(clipwise.autoclip(10), [tf.Variable([0.0, 0.0])])
    >>> int(state.step)
    0
    """
    plan = make_plan(as_clip(clip), slots_of(variables, unit_axes))
    return init_state(plan, TensorFlowArithmetic().xp)


@as_it_is
def clip(
    clip: AnyClip | str | Mapping[str, Any],
    grads: Any,
    state: ClipState | None = None,
    variables: Any = None,
    *,
    loss: Array | None = None,
    learning_rate: Array | None = None,
    momentum: Array | None = None,
    scale_free: bool = False,
    nonfinite: NonFinite = "propagate",
    direction: bool = False,
    unit_axes: UnitAxes | None = None,
) -> tuple[Any, ClipState, ClipReport]:
    """Clip gradients: ``g <- g * min(1, threshold / norm(g))`` for each group of entries.

    See `clipwise.Clip` for groups, norms and thresholds. The function is pure: call it eagerly, in a
    `tf.function`, with ``jit_compile=True``, or in a loop.

    Args:
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`.
        grads: the result of ``tape.gradient``: a list, or any structure of `tf.nest`, of real or complex
            tensors, `tf.IndexedSlices`, and None for missing gradients. Slices without a ``dense_shape``, and
            tensors whose shape is unknown while a function is traced, take theirs from ``variables``.
        state: state returned by `init` or by the previous step; None in the first step.
        variables: the variables of TensorFlow or Keras that the gradients belong to, in the same order. They
            give the names, and are needed by thresholds that depend on weights and if a gradient is missing.
            A variable that is listed twice counts once.
        loss: the training loss of this step, 0-d; needed by thresholds that follow the loss.
        learning_rate, momentum, scale_free: those of the optimizer, for `clipwise.auto`.
        nonfinite: what to do about NaN and Inf. ``"propagate"``: nothing. ``"zero"``: replace such entries by
            0. ``"skip"``: return zeros for all gradients and report ``skipped``. ``"error"``: raise (only in
            an eager call).
        direction: report the cosine between the gradients before and after clipping even if this costs extra
            computation.
        unit_axes: maps shell patterns of names to the axes along which output units lie, where the default is
            wrong. The default is the last axis of a kernel, and the rows of a table named ``embeddings``.

    Returns:
        The clipped gradients with the same structure and dtypes (zeros if a clip with ``action="skip"`` skips
        the step), the next state, and the report, whose fields are tensors. In `tf.IndexedSlices`, slices of
        the same row are summed. They become dense if the clip has ``per="unit"``, or if entries of missing
        rows would change too.

    Raises:
        ParameterError: a pattern matches nothing; a threshold needs weights or a loss that was not given; the
            variables do not fit the gradients.
        StateError: the state belongs to another clip or to other variables.
        NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``.
        ArgumentError: ``nonfinite="error"`` inside a `tf.function`, or an argument is not allowed.

    >>> import tensorflow as tf, clipwise, clipwise.tensorflow
    >>> grads = [tf.constant([3.0, 4.0]), None]
    >>> grads, state, report = clipwise.tensorflow.clip(clipwise.clip_by_global_norm(1.0), grads)
    >>> print(grads[0].numpy(), grads[1], report)
    [0.6 0.8] None norm 5 -> 1 (threshold 1, 100% clipped)
    """
    described, nonfinite = as_clip(clip), as_nonfinite(nonfinite)
    if nonfinite == "error" and not tf.executing_eagerly():
        raise ArgumentError(
            'nonfinite="error" cannot raise from inside a tf.function; use "skip" or "zero", and look at'
            " report.nonfinite outside"
        )
    laid = lay_out(grads, variables, unit_axes)
    plan, arithmetic = make_plan(described, laid.slots), TensorFlowArithmetic()
    state = _states.checked(state, plan) if state is not None else init_state(plan, arithmetic.xp)
    gradients = _sparse.coalesced(laid.gradients, plan, laid.slots)
    weights = laid.weights if "weight_norm" in plan.sees() else None
    arrays, after, report = clip_arrays(
        plan,
        MeasuredArrays(arithmetic, laid.slots, [_sparse.entries(gradient) for gradient in gradients]),
        None if weights is None else MeasuredArrays(arithmetic, laid.slots, weights),
        state,
        StepContext(
            learning_rate=_number("learning_rate", learning_rate),
            momentum=_number("momentum", momentum),
            scale_free=scale_free,
            loss=_number("loss", loss),
        ),
        nonfinite,
        direction=direction,
    )
    out = [_sparse.with_entries(gradient, array) for gradient, array in zip(gradients, arrays, strict=True)]
    return laid.rebuilt(out), _states.like(after, state), _states.of_tensors(report)


def _number(name: str, value: Array | None) -> Array | None:
    """A number as a float64 tensor: TensorFlow does not mix dtypes."""
    if value is None:
        return None
    try:
        tensor = tf.convert_to_tensor(value)
        number = tf.cast(tensor, tf.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} must be a number or a tensor of one, got {value!r}") from error
    if number.shape.rank not in (0, None):
        raise ArgumentError(f"{name} must be a single number, got one of shape {tuple(number.shape)}")
    return number
