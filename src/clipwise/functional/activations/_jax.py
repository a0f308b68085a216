"""What activations ask of JAX."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

__all__ = [
    "arange",
    "as_array",
    "between",
    "is_boolean",
    "is_floating",
    "is_own",
    "largest",
    "like",
    "maximum",
    "products",
    "reshape",
    "sigmoid",
    "smallest",
    "spread",
    "tanh",
    "where",
    "widened",
]

maximum, reshape, where = jnp.maximum, jnp.reshape, jnp.where
sigmoid, tanh = jax.nn.sigmoid, jnp.tanh


def is_own(x: Any) -> bool:
    return isinstance(x, jax.Array)


def as_array(x: jax.Array) -> jax.Array:
    return x


def is_floating(x: jax.Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def is_boolean(x: jax.Array) -> bool:
    return bool(x.dtype == jnp.bool_)


def like(value: Any, x: jax.Array) -> jax.Array:
    with np.errstate(over="ignore"):
        return jnp.asarray(value, dtype=x.dtype)


def spread(bound: jax.Array, x: jax.Array) -> jax.Array:
    if x.dtype.itemsize > 2:
        return like(bound, x)
    return jnp.broadcast_to(bound.astype(jnp.float32), x.shape).astype(x.dtype)


# Compiled with its bounds, as JAX' own are: then subnormal numbers are treated as theirs are.
@partial(jax.jit, static_argnums=(1, 2))
def between(x: jax.Array, low: float, high: float) -> jax.Array:
    # Not jnp.clip, whose gradient at a bound is 1/2.
    smallest, largest = like(low, x), like(high, x)
    return jnp.where(x <= smallest, smallest, jnp.where(x >= largest, largest, x))


def arange(stop: int, x: jax.Array) -> jax.Array:
    return jnp.arange(stop)


def largest(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    return jnp.max(x, axis=axes)


def smallest(x: jax.Array, axis: int) -> jax.Array:
    return jnp.min(x, axis=axis)


def widened(x: jax.Array, other: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(jnp.promote_types(x.dtype, other.dtype), jnp.float32))


def products(q: jax.Array, k: jax.Array) -> jax.Array:
    # A matrix unit would round to bfloat16 otherwise.
    return jnp.matmul(q, jnp.swapaxes(k, -1, -2), precision="highest")
