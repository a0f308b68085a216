"""Per-example clipping for `GradientTape` loops: each example's gradient is clipped before the sum."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_example_clip
from clipwise.errors import ArgumentError
from clipwise.functional.arithmetic.tensorflow import TensorFlowArithmetic
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.clipping import ClipState, init_state
from clipwise.functional.context import StepContext
from clipwise.functional.examples.options import Options, Reduction, WhenNonFinite
from clipwise.functional.examples.plan import ExamplePlan
from clipwise.functional.examples.report import ExampleReport
from clipwise.namespace import Array
from clipwise.tensorflow import _states
from clipwise.tensorflow._example_sums import as_tensors, sums_of
from clipwise.tensorflow._layout import lay_out, slots_of
from clipwise.tensorflow.functional import as_it_is

__all__ = ["PerExample", "per_example"]


class PerExample:
    """A function of variables and a batch that returns clipped gradients. Created by `per_example`."""

    def __init__(self, loss_fn: Callable[..., Array], options: Options) -> None:
        if not callable(loss_fn):
            raise ArgumentError(f"loss_fn must be a function of one example, got {loss_fn!r}")
        self.loss_fn = loss_fn
        self.options = options
        self._compiled: tuple[list[Any], Any] | None = None

    def init(self, variables: Any) -> ClipState:
        """The state of the thresholds before the first step."""
        plan = ExamplePlan(self.options.clip, slots_of(variables, None))
        return init_state(plan.plan, TensorFlowArithmetic().xp)

    @as_it_is
    def __call__(
        self,
        variables: Any,
        *batch: Any,
        state: ClipState | None = None,
        mask: Array | None = None,
        seed: Array | None = None,
    ) -> tuple[Any, ClipState, ExampleReport]:
        """The clipped gradients of a batch, the next state, and a report of its examples.

        Args:
            variables: TensorFlow or Keras variables that ``loss_fn`` uses, in any structure of `tf.nest`.
            batch: the arguments of ``loss_fn``, each tensor with the examples along axis 0.
            state: the state from `init` or from the previous step; None in the first step.
            mask: booleans of shape ``(examples,)``, True for examples and False for padding. The contents of
                padding have no effect.
            seed: two whole numbers that seed the noise; they must differ from step to step.

        Returns:
            ``(gradients, state, report)``, the gradients in the structure of ``variables``.

        Raises:
            ArgumentError: the tensors differ in the number of examples, or the loss is not one number.
            StateError: the state belongs to another clip or to other variables.
        """
        batch = as_tensors(batch)
        size = int(tf.nest.flatten(batch)[0].shape[0])
        if mask is not None:
            mask = tf.cast(tf.convert_to_tensor(mask), tf.bool)
            if tuple(mask.shape) != (size,):
                raise ArgumentError(f"mask must have the shape ({size},), got {tuple(mask.shape)}")
        if (seed is None) == bool(self.options.noise_multiplier):
            raise ArgumentError(
                "noise_multiplier needs a seed= of two numbers, different ones at each step"
                if seed is None
                else "seed is for the noise: also pass noise_multiplier to per_example"
            )
        owners = _once(variables)
        laid = lay_out(variables, variables, None, "variable")
        plan = ExamplePlan(self.options.clip, laid.slots)
        if state is None:
            state = init_state(plan.plan, TensorFlowArithmetic().xp)
        state = _states.checked(state, plan.plan)
        if tf.executing_eagerly():
            gradients, state, report = self._function(owners)(batch, state, mask, seed)
        else:
            gradients, state, report = self._step(owners, batch, state, mask, seed)
        return laid.rebuilt(gradients), state, report

    def sensitivity(self, variables: Any, state: ClipState | None = None) -> Array:
        """How much adding or removing one example changes the gradients of the coming step, as a 2-norm.

        With a global norm of C it is C for ``loss="sum"`` and C / batch_size for ``loss="mean"``.

        Raises:
            ArgumentError: the threshold follows the examples' norms, or ``batch_size`` is not given.
        """
        divisor = self.options.divisor
        plan, thresholds, *_ = self._begin(_once(variables), state or self.init(variables))
        return plan.sensitivity(TensorFlowArithmetic().xp, thresholds) / divisor

    def _function(self, owners: list[Any]) -> Any:
        """The step as a graph; a loop over examples is traced anew at each call without one."""
        known = self._compiled
        if known is None or [id(one) for one in known[0]] != [id(one) for one in owners]:
            step = tf.function(lambda *given: self._step(owners, *given), autograph=False)
            self._compiled = known = (owners, step)
        return known[1]

    def _begin(self, owners: Sequence[Any], state: ClipState) -> tuple[Any, ...]:
        arithmetic = TensorFlowArithmetic()
        laid = lay_out(owners, owners, None, "variable")
        plan = ExamplePlan(self.options.clip, laid.slots)
        weights = None
        if "weight_norm" in plan.plan.sees() and laid.weights is not None:
            weights = MeasuredArrays(arithmetic, laid.slots, laid.weights)
        context = StepContext(step=tf.cast(state.step, tf.float64))
        thresholds = plan.thresholds(arithmetic.xp, weights, state.thresholds, context)
        return plan, thresholds, weights, context

    def _step(
        self, owners: list[Any], batch: Any, state: ClipState, mask: Array | None, seed: Array | None
    ) -> tuple[list[Array], ClipState, ExampleReport]:
        options, xp = self.options, TensorFlowArithmetic().xp
        plan, thresholds, weights, context = self._begin(owners, state)
        if options.noise_multiplier:
            options.refuse_unbounded(plan.bounded)
        size = int(tf.nest.flatten(batch)[0].shape[0])
        there = mask if mask is not None else tf.ones(size, tf.bool)
        totals, losses, norms = sums_of(
            self.loss_fn,
            options,
            [_of_tensorflow(one) for one in owners],
            batch,
            there,
            plan,
            thresholds,
            xp,
        )
        clipped = plan.clipped(xp, norms, thresholds)
        nan = tf.constant(float("nan"), tf.float64)
        seen = [
            (tf.where(tf.reshape(there, [-1] + [1] * (a.shape.rank - 1)), a, nan), tf.where(there, b, nan))
            for a, b in zip(clipped.groups, clipped.joints, strict=True)
        ]
        learned = state.thresholds
        if size:
            learned = plan.learned(xp, weights, state.thresholds, context, seen, _folded)
        divisor: Any = 1.0
        if options.loss == "mean":
            divisor = options.batch_size or tf.maximum(tf.reduce_sum(tf.cast(there, tf.float64)), 1.0)
        totals = [total / tf.cast(divisor, total.dtype) for total in totals]
        if options.noise_multiplier:
            deviation = options.noise_multiplier * plan.sensitivity(xp, thresholds) / options.divisor
            totals = [
                total + tf.cast(deviation, total.dtype) * _noise(total, seed, place)
                for place, total in enumerate(totals)
            ]
        gradients = [tf.cast(total, owner.dtype) for total, owner in zip(totals, owners, strict=True)]
        report = plan.report(xp, norms, clipped.coefficients, thresholds, losses=losses, mask=mask)
        after = _states.like(ClipState(state.step + 1, learned), state)
        return gradients, after, report


def per_example(
    loss_fn: Callable[..., Array],
    clip: AnyClip | str | Mapping[str, Any],
    loss: Reduction = "mean",
    *,
    batch_size: int | None = None,
    micro_batch: int | None = None,
    nonfinite: WhenNonFinite = "propagate",
    noise_multiplier: float = 0.0,
) -> PerExample:
    """Clip the gradient of each example of a batch before they are summed.

    ``sum_i min(1, C / ||g_i||) g_i`` with ``g_i`` the gradient of ``loss_fn(*example_i)``, divided by the
    number of examples for ``loss="mean"``. Clips, thresholds and noise are those of
    `clipwise.torch.per_example`. Call the returned object as ``gradients, state, report = step(variables,
    inputs, targets, state=state)``, eagerly or inside a `tf.function`. In a `tf.function` the number of
    examples must be known when it is traced.

    Args:
        loss_fn: a function of one example, without a batch axis, that uses the variables and returns its
            loss. Give a Keras model ``inputs[None]``. AutoGraph does not convert it: branch with `tf.cond`.
        clip: a clip by global norm or by tensor; a string or a mapping is read by `clipwise.config.parse`.
        loss: ``"mean"`` or ``"sum"`` of the clipped gradients.
        batch_size: divisor of the sum for ``loss="mean"``; by default the number of examples.
        micro_batch: number of examples at a time; by default as many as fit into 64 Mi entries.
        nonfinite: what to do about examples whose gradient holds NaN or Inf: ``"propagate"`` sums them as
            they are, ``"drop"`` leaves them out.
        noise_multiplier: standard deviation of Gaussian noise, divided by `PerExample.sensitivity`.

    Returns:
        A `PerExample`.

    Raises:
        ArgumentError: an option is not allowed, or the options do not fit together.

    >>> import tensorflow as tf, clipwise, clipwise.tensorflow
    >>> w = tf.Variable([0.0, 0.0])
    >>> step = clipwise.tensorflow.per_example(
    ...     lambda x: tf.tensordot(w, x, 1), clipwise.clip_by_global_norm(1.0), loss="sum"
    ... )
    >>> (gradient,), state, report = step([w], tf.constant([[0.6, 0.8], [30.0, 40.0]]))
    >>> print(gradient.numpy().round(3), report.largest)
    [1.2 1.6] 1
    """
    if nonfinite == "error":
        raise ArgumentError(
            'nonfinite="error" cannot raise from inside a compiled function; use "drop", and look at'
            " report.norms outside"
        )
    options = Options.checked(
        as_example_clip(clip), loss, batch_size, micro_batch, nonfinite, noise_multiplier
    )
    return PerExample(loss_fn, options)


def _once(variables: Any) -> list[Any]:
    """The variables as a list, in which each is once."""
    found = list({id(one): one for one in tf.nest.flatten(variables)}.values())
    if not found:
        raise ArgumentError("variables must contain at least one variable")
    for one in found:
        _of_tensorflow(one)
    return found


def _of_tensorflow(variable: Any) -> Any:
    """The variable itself, or that behind one of Keras."""
    found = variable if isinstance(variable, tf.Variable) else getattr(variable, "value", None)
    if not isinstance(found, tf.Variable):
        raise ArgumentError(f"variables must be TensorFlow or Keras variables, got {type(variable).__name__}")
    return found


def _noise(like: Array, seed: Array | None, place: int) -> Array:
    own = tf.random.experimental.stateless_fold_in(tf.convert_to_tensor(seed, tf.int32), place)
    return tf.random.stateless_normal(like.shape, own, dtype=like.dtype)


def _folded(function: Callable[[Any, Any], Any], state: Any, arrays: Sequence[Array]) -> Any:
    """`fold_rows` as one loop of the graph."""

    def body(state: Any, rows: Any) -> Any:
        return tf.nest.map_structure(lambda new, old: tf.cast(new, old.dtype), function(state, rows), state)

    return tf.foldl(body, tuple(arrays), initializer=state)
