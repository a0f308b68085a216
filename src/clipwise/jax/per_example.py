"""Per-example clipping: each example's gradient is clipped before the sum, in micro-batches of `jax.vmap`."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_example_clip
from clipwise.errors import ArgumentError
from clipwise.functional.arithmetic.jax import JaxArithmetic
from clipwise.functional.arrays import MeasuredArrays
from clipwise.functional.clipping import ClipState
from clipwise.functional.context import StepContext
from clipwise.functional.examples.options import Options, Reduction, WhenNonFinite
from clipwise.functional.examples.plan import ExamplePlan
from clipwise.functional.examples.report import ExampleReport
from clipwise.jax import _trees
from clipwise.jax._example_sums import refuse_batch, size_of, sums_of
from clipwise.jax._step import emptied, first_state, full_state, refuse_no_state
from clipwise.namespace import Array

__all__ = ["PerExample", "per_example"]

_META = ("names",)
_DATA = [one.name for one in fields(ExampleReport) if one.name not in _META]
jax.tree_util.register_dataclass(ExampleReport, data_fields=_DATA, meta_fields=list(_META))


class PerExample:
    """A function of parameters and a batch that returns clipped gradients. Created by `per_example`."""

    def __init__(self, loss_fn: Callable[..., Array], options: Options) -> None:
        if not callable(loss_fn):
            raise ArgumentError(f"loss_fn must be a function of params and one example, got {loss_fn!r}")
        self.loss_fn = loss_fn
        self.options = options
        self._compiled = jax.jit(self._step)

    def init(self, params: Any) -> ClipState:
        """The state of the thresholds before the first step."""
        return first_state(self.options.clip, _trees.lay_out(params, None, None, "parameter").slots)

    def __call__(
        self,
        params: Any,
        *batch: Any,
        state: ClipState | None = None,
        mask: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Any, ClipState, ExampleReport]:
        """The clipped gradients of a batch, the next state, and a report of its examples.

        Args:
            params: any pytree.
            batch: the other arguments of ``loss_fn``, each array with the examples along axis 0.
            state: the state from `init` or from the previous step; None in the first step.
            mask: booleans of shape ``(examples,)``, True for examples and False for padding. The contents of
                padding have no effect.
            key: random key for the noise; it must differ from step to step.

        Returns:
            ``(gradients, state, report)``, the gradients in the structure of ``params``.

        Raises:
            ArgumentError: the arrays differ in the number of examples, or the loss is not one number.
            StateError: the state belongs to another clip or to other parameters.
        """
        refuse_no_state(state)
        refuse_batch(self.loss_fn, self.options, params, batch, mask, key)
        found: tuple[Any, ClipState, ExampleReport] = self._compiled(params, batch, state, mask, key)
        return found

    def sensitivity(self, params: Any, state: ClipState | None = None) -> Array:
        """How much adding or removing one example changes the gradients of the coming step, as a 2-norm.

        With a global norm of C it is C for ``loss="sum"`` and C / batch_size for ``loss="mean"``.

        Raises:
            ArgumentError: the threshold follows the examples' norms, or ``batch_size`` is not given.
        """
        divisor = self.options.divisor
        plan, thresholds, *_ = self._begin(params, state)
        return plan.sensitivity(JaxArithmetic().xp, thresholds) / divisor

    def _begin(self, params: Any, state: ClipState | None) -> tuple[Any, ...]:
        arithmetic = JaxArithmetic()
        laid = _trees.lay_out(params, None, None, "parameter")
        plan = ExamplePlan(self.options.clip, laid.slots)
        full = full_state(plan.plan, arithmetic.xp, state)
        weights = None
        if "weight_norm" in plan.plan.sees():
            weights = MeasuredArrays(arithmetic, laid.slots, laid.gradients)
        context = StepContext(step=full.step.astype(arithmetic.xp.float_dtype))
        thresholds = plan.thresholds(arithmetic.xp, weights, full.thresholds, context)
        return plan, thresholds, laid, full, weights, context

    def _step(
        self, params: Any, batch: tuple[Any, ...], state: ClipState | None, mask: Any, key: Any
    ) -> tuple[Any, ClipState, ExampleReport]:
        options, xp = self.options, JaxArithmetic().xp
        plan, thresholds, laid, full, weights, context = self._begin(params, state)
        if options.noise_multiplier:
            options.refuse_unbounded(plan.bounded)
        size = size_of(batch)
        there = jnp.ones(size, bool) if mask is None else jnp.asarray(mask, bool)
        totals, losses, norms = sums_of(self.loss_fn, options, batch, there, plan, thresholds, laid)
        clipped = plan.clipped(xp, norms, thresholds)
        seen = [
            (jnp.where(there.reshape(-1, *[1] * (a.ndim - 1)), a, jnp.nan), jnp.where(there, b, jnp.nan))
            for a, b in zip(clipped.groups, clipped.joints, strict=True)
        ]
        after = full.thresholds
        if size:
            after = plan.learned(xp, weights, full.thresholds, context, seen, _scanned)
        divisor: Any = 1
        if options.loss == "mean":
            divisor = options.batch_size or jnp.maximum(jnp.sum(there), 1)
        totals = [total / divisor for total in totals]
        if options.noise_multiplier:
            deviation = options.noise_multiplier * plan.sensitivity(xp, thresholds) / options.divisor
            keys = jax.random.split(key, len(totals))
            totals = [
                total + deviation.astype(total.dtype) * jax.random.normal(own, total.shape, total.dtype)
                for own, total in zip(keys, totals, strict=True)
            ]
        dtypes = [jnp.result_type(array) for array in laid.gradients]
        totals = [total.astype(dtype) for total, dtype in zip(totals, dtypes, strict=True)]
        report = plan.report(
            xp, norms, clipped.coefficients, thresholds, losses=losses, mask=mask if mask is None else there
        )
        after = jax.tree.map(lambda new, old: new.astype(old.dtype), after, full.thresholds)
        return laid.rebuilt(totals), emptied(ClipState(full.step + 1, after)), report


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

    ``sum_i min(1, C / ||g_i||) g_i`` with ``g_i`` the gradient of ``loss_fn(params, *example_i)``, divided by
    the number of examples for ``loss="mean"``. Clips, thresholds and noise are those of
    `clipwise.torch.per_example`. Call the returned object as ``gradients, state, report = step(params,
    inputs, targets, state=state)``. It is compiled, and can be part of a compiled step.

    Args:
        loss_fn: a function of params and one example, without a batch axis, that returns its loss.
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

    >>> import jax.numpy as jnp, clipwise, clipwise.jax
    >>> step = clipwise.jax.per_example(lambda w, x: w @ x, clipwise.clip_by_global_norm(1.0), loss="sum")
    >>> gradients, state, report = step(jnp.zeros(2), jnp.array([[0.6, 0.8], [30.0, 40.0]]))
    >>> print(gradients.round(3), report.largest)
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


def _scanned(function: Callable[[Any, Any], Any], state: Any, arrays: Any) -> Any:
    """`fold_rows` as one loop of the compiled step."""

    def body(state: Any, rows: Any) -> tuple[Any, None]:
        after = function(state, rows)
        return jax.tree.map(lambda new, old: jnp.asarray(new).astype(old.dtype), after, state), None

    return jax.lax.scan(body, state, arrays)[0]
