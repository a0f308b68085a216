"""The sums of clipped gradients of a batch, in micro-batches of `tf.vectorized_map`."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from clipwise.errors import ArgumentError
from clipwise.functional.examples.options import Options
from clipwise.functional.examples.plan import ExamplePlan, joined
from clipwise.namespace import Array

__all__ = ["as_tensors", "sums_of"]

ENTRIES = 1 << 26
"""Entries of per-example gradients that are there at a time, unless ``micro_batch`` is given."""


def as_tensors(batch: Any) -> Any:
    """The batch as tensors that have the examples along axis 0.

    Raises:
        ArgumentError: there is none, one has no axis, two differ in the number of examples, or that is not
            known while a function is traced.
    """
    batch = tf.nest.map_structure(tf.convert_to_tensor, batch)
    leaves = tf.nest.flatten(batch)
    if not leaves:
        raise ArgumentError("the batch must hold a tensor with the examples along axis 0")
    shapes = [leaf.shape for leaf in leaves]
    if any(shape.rank is None or (shape.rank and shape[0] is None) for shape in shapes):
        raise ArgumentError(
            "the number of examples must be known where a function is traced: batches of one size, such as"
            " dataset.batch(n, drop_remainder=True) gives, or padding and mask="
        )
    if not shapes[0].rank or any(not shape.rank or shape[0] != shapes[0][0] for shape in shapes):
        found = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ArgumentError(
            f"each tensor of the batch must have the examples along axis 0, got shapes {found}"
        )
    return batch


def sums_of(
    loss_fn: Callable[..., Array],
    options: Options,
    variables: Sequence[Any],
    batch: Any,
    there: Array,
    plan: ExamplePlan,
    thresholds: Sequence[Array],
    xp: Any,
) -> tuple[list[Array], Array, dict[float, Array]]:
    """The sums of the clipped gradients, the losses, and the norms of each order.

    Args:
        variables: of TensorFlow.
        batch: of `as_tensors`.
        there: which rows are examples, and not padding.
        plan, thresholds: of this step.
    """
    size = int(there.shape[0])
    entries = max(1, sum(slot.size for slot in plan.slots))
    step = options.micro_batch or max(1, ENTRIES // entries)
    totals = [tf.zeros(slot.shape, _sum_dtype(v)) for slot, v in zip(plan.slots, variables, strict=True)]
    if not size:  # a batch that was drawn at random may be empty
        nothing = tf.zeros((0, len(totals)), xp.float_dtype)
        return totals, tf.zeros(0, totals[0].dtype), dict.fromkeys(plan.orders, nothing)
    losses, norms = [], []
    for start in range(0, size, step):
        some = tf.nest.map_structure(lambda one, at=start: one[at : at + step], batch)
        found, own = tf.vectorized_map(lambda example: _gradient(loss_fn, variables, example), some)
        here = {p: tf.stack([_norms(xp, one, p) for one in found], axis=1) for p in plan.orders}
        factors = plan.clipped(xp, here, thresholds).coefficients
        kept = there[start : start + step]
        if options.nonfinite == "drop":
            kept &= tf.reduce_all(tf.math.is_finite(here[plan.orders[0]]), axis=1)
        for place, one in enumerate(found):
            dtype = totals[place].dtype
            # Chosen, not multiplied by 0: whatever is in padding may be NaN.
            one = tf.where(tf.reshape(kept, [-1] + [1] * (one.shape.rank - 1)), tf.cast(one, dtype), 0)
            factor = tf.cast(tf.where(kept, factors[:, place], 0), dtype)
            totals[place] += tf.tensordot(factor, one, 1)
        losses.append(own)
        norms.append(here)
    return totals, tf.concat(losses, 0), {p: tf.concat([one[p] for one in norms], 0) for p in plan.orders}


def _gradient(
    loss_fn: Callable[..., Array], variables: Sequence[Any], example: Any
) -> tuple[list[Array], Array]:
    """Of one example: the gradients, dense, and the loss."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(variables)
        loss = tf.convert_to_tensor(loss_fn(*example))
        if loss.shape.num_elements() != 1:
            raise ArgumentError(
                "loss_fn(*example) must give one number for one example, which has no axis for the batch; it"
                f" gave the shape {tuple(loss.shape)}"
            )
        loss = tf.reshape(loss, [])
    found = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(one) for one in found], loss


def _norms(xp: Any, gradients: Array, p: float) -> Array:
    """The p-norm of each row in float64."""
    rows = tf.reshape(gradients, [gradients.shape[0], -1])
    return joined(xp, tf.cast(tf.abs(rows), xp.float_dtype), p)


def _sum_dtype(variable: Any) -> Any:
    return tf.float64 if variable.dtype == tf.float64 else tf.float32
