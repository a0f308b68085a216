"""The namespace of JAX. Loaded only where a value came from there; the core imports no framework by name."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from clipwise.namespace._base import Array, Namespace

jax: Any = importlib.import_module("jax")
jnp: Any = jax.numpy


def owns(value: Any) -> bool:
    """Whether a value is an array of JAX, traced or not."""
    return isinstance(value, jax.Array)


class JaxNamespace(Namespace):
    """JAX' functions, and what the standard lacks."""

    framework = "jax"

    sigmoid = staticmethod(jax.nn.sigmoid)
    stop_gradient = staticmethod(jax.lax.stop_gradient)

    @classmethod
    def bound(cls, dtype: Any, device: Any = None) -> "JaxNamespace":
        return cls(jnp, dtype, device)

    @classmethod
    def of(cls, x: Array) -> "JaxNamespace":
        found = _KNOWN.get(x.dtype)
        if found is None:
            found = _KNOWN[x.dtype] = cls.bound(x.dtype)  # new arrays follow those that they meet
        return found

    def like(self, value: Any, *, dtype: Any = None) -> Array:
        with np.errstate(over="ignore"):
            return jnp.asarray(value, dtype=dtype or self._float)

    def is_floating(self, x: Array) -> bool:
        return bool(jnp.issubdtype(x.dtype, jnp.floating))

    @staticmethod
    def is_traced(x: Array) -> bool:
        return isinstance(x, jax.core.Tracer)

    @staticmethod
    def may_be_differentiated(x: Array) -> bool:
        return True

    def slopes(self, function: Callable[[Array], Array], points: Array) -> Array | None:
        def total(points: Array) -> Array:
            values = function(points)
            return values.astype(jnp.promote_types(values.dtype, jnp.float32)).sum()

        return jax.grad(total)(points)

    def between(self, x: Array, low: float, high: float) -> Array:
        return _between(x, low, high)

    def sqrt(self, x: Array) -> Array:
        return self._sqrt(x)

    def row_products(self, a: Array, b: Array) -> Array:
        # A matrix unit would round to bfloat16 otherwise.
        return jnp.matmul(a, jnp.matrix_transpose(b), precision="highest")


# Compiled with its bounds, as JAX' own are: then subnormal numbers are treated as theirs are.
@partial(jax.jit, static_argnums=(1, 2))
def _between(x: Array, low: float, high: float) -> Array:
    # Not jnp.clip, whose gradient at a bound is 1/2.
    return Namespace.between(JaxNamespace.bound(x.dtype), x, low, high)


_KNOWN: dict[Any, JaxNamespace] = {}

KIND = JaxNamespace
