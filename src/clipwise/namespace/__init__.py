"""The array namespace of a value, bound to the device and width that thresholds are computed in.

Policies in `clipwise.thresholds` are written against the Python array API standard. A `Namespace` is that
namespace for one framework with two things bound, so that a policy need not know them: where new arrays
live, and how wide a float is. A framework is touched only if the value came from it. TensorFlow has no array
API namespace; `clipwise.namespace._tensorflow` is one for it.
"""

import importlib
import sys
from types import ModuleType
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

Array: TypeAlias = Any
"""An array of any framework, or a plain Python number."""

__all__ = ["Array", "Namespace", "namespace_of"]


class Namespace:
    """An array namespace whose creation functions use one device and one float dtype.

    Everything else is the framework's own array API namespace, unchanged.

    >>> xp = Namespace(np, np.float32, None)
    >>> xp.zeros((2,)).dtype
    dtype('float32')
    """

    def __init__(self, module: ModuleType, dtype: Any, device: Any) -> None:
        self._module = module
        self._float = dtype
        self.device = device

    @property
    def float_dtype(self) -> Any:
        """The float dtype that is bound."""
        return self._float

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)  # asked for by copy and pickle before there is a module
        value = getattr(self._module, name)
        setattr(self, name, value)  # found at once the next time
        return value

    def __reduce__(self) -> tuple[Any, ...]:
        return _namespace_named, (self._module.__name__, self._float, self.device)

    def zeros(self, shape: tuple[int, ...], *, dtype: Any = None) -> Array:
        return self._module.zeros(shape, dtype=dtype or self._float, device=self.device)

    def full(self, shape: tuple[int, ...], value: float, *, dtype: Any = None) -> Array:
        return self._module.full(shape, value, dtype=dtype or self._float, device=self.device)

    def arange(self, stop: int, *, dtype: Any = None) -> Array:
        return self._module.arange(stop, dtype=dtype or self._module.int32, device=self.device)

    def asarray(self, value: Any, *, dtype: Any = None) -> Array:
        """An array as it is; a number as a 0-d array, filled on the device: no copy waits for the host."""
        if isinstance(value, bool | int | float):
            return self.full((), value, dtype=dtype)
        return self._module.asarray(value, dtype=dtype, device=self.device)


def _namespace_named(module: str, dtype: Any, device: Any) -> Namespace:
    return Namespace(importlib.import_module(module), dtype, device)


def namespace_of(value: Any) -> Namespace:
    """The bound namespace of a numpy, torch, JAX or TensorFlow array; of numpy in float64 for a number.

    >>> namespace_of(2.0).zeros(()).dtype
    dtype('float64')
    """
    if isinstance(value, bool | int | float):
        return Namespace(array_api_compat.array_namespace(np.empty(0)), np.float64, None)
    if "tensorflow" in sys.modules and type(value).__module__.startswith("tensorflow."):
        return Namespace(importlib.import_module(f"{__name__}._tensorflow"), value.dtype, None)
    module = array_api_compat.array_namespace(value)
    return Namespace(module, value.dtype, array_api_compat.device(value))
