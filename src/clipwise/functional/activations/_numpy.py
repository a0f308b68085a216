"""What activations ask of numpy, and of plain numbers."""

from typing import Any

import numpy as np

from clipwise.namespace import Array

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

_KINDS = (np.ndarray, np.generic, float, int)  # a tuple, which torch's compiler understands

maximum, reshape, where = np.maximum, np.reshape, np.where


def is_own(x: Any) -> bool:
    return isinstance(x, _KINDS)


def as_array(x: Array) -> Array:
    return np.asarray(x)


def is_floating(x: Array) -> bool:
    return bool(np.issubdtype(x.dtype, np.floating))


def is_boolean(x: Array) -> bool:
    return bool(x.dtype == np.bool_)


def like(value: Any, x: Array) -> Array:
    with np.errstate(over="ignore"):  # a bound beyond the range of float16 is infinite there
        return np.asarray(value).astype(x.dtype)


spread = like  # there are no gradients


def between(x: Array, low: Any, high: Any) -> Array:
    low, high = like(low, x), like(high, x)
    return np.where(x <= low, low, np.where(x >= high, high, x))


def sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))  # at most 1: no overflow on either side
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e)).astype(x.dtype)


def tanh(x: Array) -> Array:
    return np.tanh(x)


def arange(stop: int, x: Array) -> Array:
    return np.arange(stop)


def largest(x: Array, axes: tuple[int, ...]) -> Array:
    return np.max(x, axis=axes)


def smallest(x: Array, axis: int) -> Array:
    return np.min(x, axis=axis)


def widened(x: Array, other: Array) -> Array:
    return x.astype(np.result_type(x.dtype, other.dtype, np.float32), copy=False)


def products(q: Array, k: Array) -> Array:
    return q @ np.swapaxes(k, -1, -2)
