"""What activations ask of TensorFlow."""

import importlib
from typing import Any

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

tf: Any = importlib.import_module("tensorflow")

maximum, where = tf.maximum, tf.where
sigmoid, tanh = tf.sigmoid, tf.tanh


def is_own(x: Any) -> bool:
    return isinstance(x, tf.Tensor | tf.Variable)


def as_array(x: Array) -> Array:
    return tf.convert_to_tensor(x)


def is_floating(x: Array) -> bool:
    return bool(x.dtype.is_floating)


def is_boolean(x: Array) -> bool:
    return bool(x.dtype.is_bool)


def like(value: Any, x: Array) -> Array:
    return tf.cast(value, x.dtype)


def spread(bound: Array, x: Array) -> Array:
    if x.dtype.size > 2:
        return like(bound, x)
    return like(tf.broadcast_to(tf.cast(bound, tf.float32), tf.shape(x)), x)


def between(x: Array, low: Any, high: Any) -> Array:
    if (low, high) == (0.0, 6.0):
        return tf.nn.relu6(x)  # one kernel
    # Not tf.clip_by_value, whose gradient at a bound is 1.
    low, high = like(low, x), like(high, x)
    return tf.where(x <= low, low, tf.where(x >= high, high, x))


def arange(stop: int, x: Array) -> Array:
    return tf.range(stop)


def largest(x: Array, axes: tuple[int, ...]) -> Array:
    return tf.reduce_max(x, axes)


def smallest(x: Array, axis: int) -> Array:
    return tf.reduce_min(x, axis)


def reshape(x: Array, shape: tuple[int | None, ...]) -> Array:
    return tf.reshape(x, [tf.shape(x)[axis] if size is None else size for axis, size in enumerate(shape)])


def widened(x: Array, other: Array) -> Array:
    return tf.cast(x, tf.float64 if tf.float64 in (x.dtype, other.dtype) else tf.float32)


def products(q: Array, k: Array) -> Array:
    return tf.matmul(q, k, transpose_b=True)
