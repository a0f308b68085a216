"""The arithmetic on JAX arrays, traced or not, in float64 where that is enabled and else in float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from clipwise.functional.arithmetic.base import Arithmetic
from clipwise.namespace import Array, Namespace

__all__ = ["JaxArithmetic", "is_own"]


def is_own(value: Any) -> bool:
    """Whether a value is an array of JAX, traced or not."""
    return isinstance(value, jax.Array)


class JaxArithmetic(Arithmetic):
    """JAX' arrays, on any device, sharded or not."""

    def __init__(self, like: Array = None) -> None:
        super().__init__(Namespace(jnp, jnp.result_type(float), None))

    def cond(self, flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        return jax.lax.cond(flag, yes, no)
