"""The functions of the array API standard that clipwise uses, over TensorFlow, which has no such namespace.

Loaded only where a value came from TensorFlow; the core imports no framework by name. Numbers take the dtype
of the tensors they meet; tensors of two dtypes meet in the wider one.
"""

import importlib
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from clipwise.namespace._base import Array, Namespace

tf: Any = importlib.import_module("tensorflow")
ml_dtypes: Any = importlib.import_module("ml_dtypes")  # which TensorFlow brings along: bfloat16 for numpy

inf, nan = math.inf, math.nan
float16, bfloat16, float32, float64 = tf.float16, tf.bfloat16, tf.float32, tf.float64
complex64, complex128 = tf.complex64, tf.complex128
int32, int64 = tf.int32, tf.int64

KINDS = {
    "bool": lambda dtype: dtype.is_bool,
    "integral": lambda dtype: dtype.is_integer,
    "real floating": lambda dtype: dtype.is_floating,
    "complex floating": lambda dtype: dtype.is_complex,
    "numeric": lambda dtype: dtype.is_integer or dtype.is_floating or dtype.is_complex,
}


def owns(value: Any) -> bool:
    """Whether a value is a dense tensor or a variable of TensorFlow."""
    return isinstance(value, tf.Tensor | tf.Variable)


def _tensors(*values: Any) -> Any:
    """Values of one dtype: that of the arrays among them, or of all numbers where there is none."""
    first, last = values[0], values[-1]
    if isinstance(first, tf.Tensor) and isinstance(last, tf.Tensor) and first.dtype == last.dtype:
        return values
    values = tuple(tf.convert_to_tensor(v) if isinstance(v, tf.Variable | np.ndarray) else v for v in values)
    found = {v.dtype for v in values if isinstance(v, tf.Tensor)}
    if not found:
        dtype = tf.as_dtype(np.result_type(*values))
    elif len(found) == 1:
        (dtype,) = found
    else:
        dtype = tf.as_dtype(np.result_type(*(d.as_numpy_dtype for d in found)))
    return [tf.cast(v, dtype) if isinstance(v, tf.Tensor) else tf.constant(v, dtype) for v in values]


def isdtype(dtype: Any, kind: Any) -> bool:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    dtype = tf.as_dtype(dtype)
    return True in [KINDS[k](dtype) if isinstance(k, str) else dtype == k for k in kinds]


def finfo(dtype: Any) -> Any:
    return ml_dtypes.finfo(tf.as_dtype(dtype).as_numpy_dtype)


def asarray(value: Any, *, dtype: Any = None, device: Any = None) -> Any:
    if not owns(value):
        value = np.asarray(value)  # which makes float64 of Python's floats, as everywhere else
    return astype(tf.convert_to_tensor(value), dtype)


def astype(x: Any, dtype: Any) -> Any:
    return x if dtype is None else tf.cast(x, dtype)


def zeros(shape: Any, *, dtype: Any, device: Any = None) -> Any:
    return tf.zeros(shape, dtype)


def full(shape: Any, value: Any, *, dtype: Any, device: Any = None) -> Any:
    return tf.constant(value, dtype, shape) if not owns(value) else tf.fill(shape, tf.cast(value, dtype))


def arange(stop: int, *, dtype: Any, device: Any = None) -> Any:
    return tf.range(stop, dtype=dtype)


zeros_like, ones_like = tf.zeros_like, tf.ones_like
abs, exp, log, sqrt, floor, cos = tf.abs, tf.exp, tf.math.log, tf.sqrt, tf.floor, tf.cos
expm1 = tf.math.expm1
isnan = tf.math.is_nan
real, imag = tf.math.real, tf.math.imag
stack, tanh = tf.stack, tf.tanh


def result_type(*values: Any) -> Any:
    """The dtype that holds all of these dtypes and arrays."""
    dtypes = {getattr(value, "dtype", value) for value in values}
    if len(dtypes) == 1:
        return tf.as_dtype(dtypes.pop())
    return tf.as_dtype(np.result_type(*(tf.as_dtype(dtype).as_numpy_dtype for dtype in dtypes)))


def reshape(x: Any, shape: Any) -> Any:
    """A length of None is that of the same axis of ``x``, not known before the graph runs."""
    return tf.reshape(x, [tf.shape(x)[axis] if size is None else size for axis, size in enumerate(shape)])


def concat(arrays: Any, *, axis: int = 0) -> Any:
    return tf.concat(arrays, axis)


def isfinite(x: Any) -> Any:
    if x.dtype.is_complex:
        return tf.math.is_finite(tf.math.real(x)) & tf.math.is_finite(tf.math.imag(x))
    return tf.math.is_finite(x) if x.dtype.is_floating else tf.ones_like(x, tf.bool)


def where(condition: Any, x: Any, y: Any) -> Any:
    return tf.where(condition, *_tensors(x, y))


def minimum(x: Any, y: Any) -> Any:
    return tf.minimum(*_tensors(x, y))


def maximum(x: Any, y: Any) -> Any:
    return tf.maximum(*_tensors(x, y))


def clip(x: Any, low: Any = None, high: Any = None) -> Any:
    x = x if low is None else maximum(x, low)
    return x if high is None else minimum(x, high)


def sum(x: Any, *, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Any:
    return tf.reduce_sum(astype(x, dtype), axis, keepdims)


def mean(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return tf.reduce_mean(x, axis, keepdims)


def max(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return tf.reduce_max(x, axis, keepdims)


def min(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return tf.reduce_min(x, axis, keepdims)


def any(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return tf.reduce_any(x, axis, keepdims)


def all(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return tf.reduce_all(x, axis, keepdims)


def sort(x: Any, *, axis: int = -1) -> Any:
    return tf.sort(x, axis)


def take(x: Any, indices: Any, *, axis: int) -> Any:
    return tf.gather(x, indices, axis=axis)


def take_along_axis(x: Any, indices: Any, *, axis: int = -1) -> Any:
    last = x.shape.rank - 1
    if axis not in (-1, last):
        order = [*range(x.shape.rank)]
        order[axis], order[last] = order[last], order[axis]
        found = take_along_axis(tf.transpose(x, order), tf.transpose(indices, order))
        return tf.transpose(found, order)
    return tf.gather(x, indices, axis=-1, batch_dims=last)


LARGEST = {dtype: float(dtype.max) for dtype in (float16, bfloat16, float32, float64)}


class TensorFlowNamespace(Namespace):
    """These functions, and what the standard lacks."""

    framework = "tensorflow"

    read = staticmethod(tf.convert_to_tensor)
    sigmoid = staticmethod(tf.sigmoid)
    stop_gradient = staticmethod(tf.stop_gradient)

    @classmethod
    def bound(cls, dtype: Any, device: Any = None) -> "TensorFlowNamespace":
        return cls(sys.modules[__name__], dtype, None)

    @classmethod
    def of(cls, x: Array) -> "TensorFlowNamespace":
        found = _KNOWN.get(x.dtype)
        if found is None:
            found = _KNOWN[x.dtype] = cls.bound(x.dtype)
        return found

    def like(self, value: Any, *, dtype: Any = None) -> Array:
        dtype = dtype or self._float
        if isinstance(value, int | float):
            # `tf.cast` would make a float32 of it first, and refuse what is beyond the range.
            if math.fabs(value) > LARGEST[dtype]:
                return tf.constant(math.copysign(inf, value), dtype)
            if dtype == float64:
                return tf.constant(value, dtype)
        return tf.cast(value, dtype)

    def broadcast_like(self, x: Array, other: Array) -> Array:
        return tf.broadcast_to(x, tf.shape(other))  # whose lengths may not be known yet

    @staticmethod
    def is_traced(x: Array) -> bool:
        return bool(tf.is_symbolic_tensor(x))

    def is_floating(self, x: Array) -> bool:
        return bool(x.dtype.is_floating)

    @staticmethod
    def on_host(x: Array) -> Any:
        return np.asarray(x.numpy())  # np.asarray alone refuses a single bfloat16

    @staticmethod
    def may_be_differentiated(x: Array) -> bool:
        return True

    def slopes(self, function: Callable[[Array], Array], points: Array) -> Array | None:
        with tf.GradientTape() as tape:
            tape.watch(points)
            values = function(points)
        found = tape.gradient(values, points)
        return None if found is None else tf.convert_to_tensor(found)

    def between(self, x: Array, low: float, high: float) -> Array:
        # Not tf.clip_by_value, whose gradient at a bound is 1.
        if (low, high) == (0.0, 6.0):
            return tf.nn.relu6(x)  # one kernel
        bottom, top = self.like(low), self.like(high)
        return tf.where(x <= bottom, bottom, tf.where(x >= top, top, x))

    def sqrt(self, x: Array) -> Array:
        return self._sqrt(x)

    def row_products(self, a: Array, b: Array) -> Array:
        return tf.matmul(a, b, transpose_b=True)


_KNOWN: dict[Any, TensorFlowNamespace] = {}

KIND = TensorFlowNamespace
