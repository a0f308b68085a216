"""The sums of clipped gradients of a batch, in micro-batches of `jax.vmap`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipwise.errors import ArgumentError
from clipwise.functional.arithmetic.jax import JaxArithmetic
from clipwise.functional.examples.options import Options
from clipwise.functional.examples.plan import ExamplePlan, joined
from clipwise.namespace import Array

__all__ = ["refuse_batch", "size_of", "sums_of"]

ENTRIES = 1 << 26
"""Entries of per-example gradients that are there at a time, unless ``micro_batch`` is given."""


def sums_of(
    loss_fn: Callable[..., Array],
    options: Options,
    batch: tuple[Any, ...],
    there: Array,
    plan: ExamplePlan,
    thresholds: Any,
    laid: Any,
) -> tuple[list[Array], Array, dict[float, Array]]:
    """The sums of the clipped gradients, the losses, and the norms of each order.

    Args:
        there: which rows are examples, and not padding.
        plan, thresholds: of this step.
        laid: the parameters by slot.
    """
    xp = JaxArithmetic().xp
    size = there.shape[0]
    wide = [jnp.zeros(slot.shape, _sum_dtype(a)) for slot, a in zip(laid.slots, laid.gradients, strict=True)]
    if not size:  # a batch that was drawn at random may be empty
        return wide, jnp.zeros(0), {p: jnp.zeros((0, len(wide)), xp.float_dtype) for p in plan.orders}
    entries = max(1, sum(slot.size for slot in laid.slots))
    micro = min(size, options.micro_batch or max(1, ENTRIES // entries))
    parts = -(-size // micro)
    tree: Any
    arrays, tree = jax.tree.flatten(batch)

    def gradient(example: list[Array]) -> tuple[list[Array], Array]:
        def loss_of(values: list[Array]) -> Array:
            loss: Array = loss_fn(laid.rebuilt(values), *tree.unflatten(example))
            return jnp.reshape(loss, ())

        loss, found = jax.value_and_grad(loss_of)(list(laid.gradients))
        return found, loss

    def part(totals: list[Array], rows: tuple[list[Array], Array]) -> tuple[list[Array], Any]:
        examples, here = rows
        found, losses = jax.vmap(gradient)(examples)
        norms = {p: jnp.stack([_norms(xp, one, p) for one in found], axis=1) for p in plan.orders}
        factors = plan.clipped(xp, norms, thresholds).coefficients
        kept = here
        if options.nonfinite == "drop":
            kept = here & jnp.all(jnp.isfinite(next(iter(norms.values()))), axis=1)
        sums = []
        for place, (total, one) in enumerate(zip(totals, found, strict=True)):
            # Chosen, not multiplied by 0: whatever is in padding may be NaN.
            one = jnp.where(kept.reshape(-1, *[1] * (one.ndim - 1)), one, 0).astype(total.dtype)
            own = jnp.where(kept, factors[:, place], 0).astype(total.dtype)
            sums.append(total + jnp.tensordot(own, one, axes=1, precision="highest"))
        return sums, (losses, norms)

    # What fills the last part is a copy of the first example, and not one of them.
    def padded(array: Array) -> Array:
        more = jnp.broadcast_to(array[:1], (parts * micro - size, *array.shape[1:]))
        return jnp.concatenate([array, more]).reshape(parts, micro, *array.shape[1:])

    rows = [padded(jnp.asarray(array)) for array in arrays]
    here = jnp.concatenate([there, jnp.zeros(parts * micro - size, bool)]).reshape(parts, micro)
    totals, (losses, norms) = jax.lax.scan(part, wide, (rows, here))
    flat = {p: one.reshape(-1, len(laid.slots))[:size] for p, one in norms.items()}
    return totals, losses.reshape(-1)[:size], flat


def refuse_batch(
    loss_fn: Callable[..., Array],
    options: Options,
    params: Any,
    batch: tuple[Any, ...],
    mask: Any,
    key: Any,
) -> None:
    """ArgumentError for a batch, a loss or options that do not fit."""
    size = size_of(batch)
    for array in jax.tree.leaves(batch):
        if not np.ndim(array) or np.shape(array)[0] != size:
            raise ArgumentError(
                f"each array of the batch must have the examples along axis 0: one has {size}, another"
                f" the shape {np.shape(array)}"
            )
    if mask is not None and np.shape(mask) != (size,):
        raise ArgumentError(f"mask must have the shape ({size},), got {np.shape(mask)}")
    if (key is None) == bool(options.noise_multiplier):
        raise ArgumentError(
            "noise_multiplier needs a key=, such as jax.random.key(0), at each step"
            if key is None
            else "key is for the noise: also pass noise_multiplier to per_example"
        )
    one = jax.tree.map(lambda array: jax.ShapeDtypeStruct(np.shape(array)[1:], jnp.result_type(array)), batch)
    loss = jax.eval_shape(loss_fn, params, *one)
    shape = getattr(loss, "shape", None)
    if shape is None or any(length != 1 for length in shape):
        raise ArgumentError(
            "loss_fn(params, *example) must give one number for one example, which has no axis for the"
            f" batch; it gave {'something else' if shape is None else f'the shape {shape}'}"
        )


def size_of(batch: tuple[Any, ...]) -> int:
    """How many rows a batch has."""
    arrays = jax.tree.leaves(batch)
    if not arrays or not np.ndim(arrays[0]):
        raise ArgumentError("the batch must hold an array with the examples along axis 0")
    return int(np.shape(arrays[0])[0])


def _norms(xp: Any, gradients: Array, p: float) -> Array:
    """The p-norm of each row in the wide float."""
    flat = jnp.abs(gradients.reshape(gradients.shape[0], -1)).astype(xp.float_dtype)
    return joined(xp, flat, p)


def _sum_dtype(array: Array) -> Any:
    return jnp.promote_types(jnp.result_type(array), jnp.float32)
