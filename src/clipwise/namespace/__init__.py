"""The array namespace of a value, bound to the device and width that thresholds are computed in.

Policies in `clipwise.thresholds` are written against the Python array API standard. A `Namespace` is that
namespace for one framework with two things bound, so that a policy need not know them: where new arrays
live, and how wide a float is. Here, and nowhere else, it is found out whose array a value is. A framework is
touched only if the value came from it. TensorFlow has no array API namespace; `_tensorflow` is one for it.
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
    """The bound namespace of a numpy, torch, JAX or TensorFlow array; of numpy in float64 for a number.

    Raises:
        TypeError: this is no array.

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
    """The namespace of a framework that is loaded, by its name.

    >>> make_namespace("numpy", np.float32).zeros(()).dtype
    dtype('float32')
    """
    if framework == "numpy":
        return Namespace.bound(dtype, device)
    kind: type[Namespace] = importlib.import_module(f"{__name__}._{framework}").KIND
    return kind.bound(dtype, device)


def framework_of(value: Any) -> str | None:
    """Whose array a value is: ``"numpy"``, ``"torch"``, ``"jax"`` or ``"tensorflow"``; None if it is none.

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
    """Whether a value stands for one that is known only when a compiled step runs, in JAX or TensorFlow.

    >>> is_traced(1.0)
    False
    """
    if isinstance(value, _NUMBERS) or not hasattr(value, "shape"):
        return False
    kind = _kind_of(value)
    return kind is not None and kind.is_traced(value)


def stop_gradient(value: Array) -> Array:
    """The same values, as constants to the framework that differentiates; a number as it is."""
    kind = _kind_of(value)
    return value if kind is None else kind.stop_gradient(value)


def on_host(value: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """An array of any framework, or a number, as numpy's; here the host waits for the device.

    >>> on_host(2.0)
    array(2.)
    """
    kind = _kind_of(value)
    found: np.ndarray[Any, np.dtype[Any]] = np.asarray(value) if kind is None else kind.on_host(value)
    return found
