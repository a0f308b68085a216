"""The array namespace of a value, bound to the device and the float type in which thresholds are computed.

Policies in `clipwise.thresholds` are written against the Python array API standard. A `Namespace` is that
namespace for one framework with two things bound, so that policies need not know them: the device of new
arrays, and the float type. The framework of an array is determined here and nowhere else. A framework is
imported only if an array came from it. TensorFlow has no array API namespace; `_tensorflow` provides one.
"""

import importlib
import sys
from typing import Any

import array_api_compat
import numpy as np

from clipwise.namespace._base import Array, Namespace

__all__ = [
    "Array",
    "Namespace",
    "framework_of",
    "is_traced",
    "make_namespace",
    "namespace_of",
    "on_host",
    "stop_gradient",
]

# Tuples, which torch's compiler understands.
_NUMBERS, _NUMPY = (bool, int, float), (np.ndarray, np.generic)


def namespace_of(value: Any) -> Namespace:
    """The bound namespace of a numpy, torch, JAX or TensorFlow array; numpy's in float64 for a number.

    Raises:
        TypeError: the argument is not an array.

    >>> namespace_of(2.0).zeros(()).dtype
    dtype('float64')
    """
    if isinstance(value, _NUMBERS):
        return Namespace.bound(np.float64)
    kind = _kind_of(value)
    if kind is not None:
        return kind.of(value)
    module = array_api_compat.array_namespace(value)
    return Namespace(module, value.dtype, array_api_compat.device(value))


def make_namespace(framework: str, dtype: Any, device: Any = None) -> Namespace:
    """The namespace of an imported framework, by its name.

    >>> make_namespace("numpy", np.float32).zeros(()).dtype
    dtype('float32')
    """
    if framework == "numpy":
        return Namespace.bound(dtype, device)
    kind: type[Namespace] = importlib.import_module(f"{__name__}._{framework}").KIND
    return kind.bound(dtype, device)


def framework_of(value: Any) -> str | None:
    """The framework of an array: ``"numpy"``, ``"torch"``, ``"jax"`` or ``"tensorflow"``; else None.

    >>> framework_of(np.zeros(2)), framework_of([0.0])
    ('numpy', None)
    """
    kind = _kind_of(value)
    return None if kind is None else kind.framework


def _kind_of(value: Any) -> type[Namespace] | None:
    """The kind of namespace an array has. Not by its type's name: classes of users derive from these."""
    if isinstance(value, _NUMPY):
        return Namespace
    # A framework is touched only where it is loaded. Plain imports, which torch's compiler can follow.
    if "torch" in sys.modules:
        import clipwise.namespace._torch as of_torch

        if of_torch.owns(value):
            return of_torch.TorchNamespace
    if "jax" in sys.modules:
        import clipwise.namespace._jax as of_jax

        if of_jax.owns(value):
            return of_jax.JaxNamespace
    if "tensorflow" in sys.modules:
        import clipwise.namespace._tensorflow as of_tensorflow

        if of_tensorflow.owns(value):
            return of_tensorflow.TensorFlowNamespace
    return None


def is_traced(value: Any) -> bool:
    """Whether a value is a tracer, which is only known when a compiled step runs, in JAX or TensorFlow.

    >>> is_traced(1.0)
    False
    """
    if isinstance(value, _NUMBERS) or not hasattr(value, "shape"):
        return False
    kind = _kind_of(value)
    return kind is not None and kind.is_traced(value)


def stop_gradient(value: Array) -> Array:
    """The same values without gradients; a number is returned unchanged."""
    kind = _kind_of(value)
    return value if kind is None else kind.stop_gradient(value)


def on_host(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """An array of any framework, or a number, as a numpy array; needs a host-device sync.

    >>> on_host(2.0)
    array(2.)
    """
    kind = _kind_of(value)
    found: np.ndarray[Any, np.dtype[Any]] = np.asarray(value) if kind is None else kind.on_host(value)
    return found
