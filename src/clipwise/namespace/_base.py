"""An array namespace with a device and a float width bound, and what the array API standard lacks."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias

import array_api_compat
import numpy as np

Array: TypeAlias = Any
"""An array of any framework, or a plain Python number."""


class Namespace:
    """An array namespace whose creation functions use one device and one float dtype.

    Everything else is the framework's own array API namespace, unchanged. What the standard does not have, or
    a framework does better, is a method: as it stands here for numpy, and any other library of the standard.

    Attributes:
        framework: whose arrays these are: ``"numpy"``, ``"torch"``, ``"jax"`` or ``"tensorflow"``.

    >>> xp = Namespace(np, np.float32, None)
    >>> xp.zeros((2,)).dtype
    dtype('float32')
    """

    framework = "numpy"

    def __init__(self, module: ModuleType, dtype: Any, device: Any) -> None:
        self._module = module
        self._float = dtype
        self.device = device

    @classmethod
    def bound(cls, dtype: Any, device: Any = None) -> "Namespace":
        """The namespace of this framework, bound to a float and a device."""
        # Asked for when it is needed: its import takes longer than that of all of clipwise.
        return cls(array_api_compat.array_namespace(np.empty(0)), dtype, device)

    @classmethod
    def of(cls, x: Array) -> "Namespace":
        """The namespace bound to an array's dtype and device."""
        found = _KNOWN.get(x.dtype)
        if found is None:
            found = _KNOWN[x.dtype] = cls.bound(x.dtype, "cpu")
        return found

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
        return _restored, (type(self), self._module.__name__, self._float, self.device)

    # Making arrays.

    def zeros(self, shape: tuple[int, ...], *, dtype: Any = None) -> Array:
        return self._module.zeros(shape, dtype=dtype or self._float, device=self.device)

    def full(self, shape: tuple[int, ...], value: float, *, dtype: Any = None) -> Array:
        return self._module.full(shape, value, dtype=dtype or self._float, device=self.device)

    def arange(self, stop: int, *, dtype: Any = None) -> Array:
        return self._module.arange(stop, dtype=dtype or self._module.int32, device=self.device)

    def asarray(self, value: Any, *, dtype: Any = None) -> Array:
        """An array as it is; a number as a 0-d array, filled on the device: no copy waits for the host."""
        if isinstance(value, (bool, int, float)):
            return self.full((), value, dtype=dtype)
        return self._module.asarray(value, dtype=dtype, device=self.device)

    def like(self, value: Any, *, dtype: Any = None) -> Array:
        """A number or an array in a float, by default the one that is bound; infinite beyond its range."""
        with np.errstate(over="ignore"):
            return np.asarray(value).astype(dtype or self._float)

    def broadcast_like(self, x: Array, other: Array) -> Array:
        """An array in the shape of another."""
        return self.broadcast_to(x, other.shape)

    # What is asked of one array.

    @staticmethod
    def is_traced(x: Array) -> bool:
        """Whether it stands for an array that is known only when a compiled step runs."""
        return False

    @staticmethod
    def read(x: Array) -> Array:
        """The value of a variable; an array as it is."""
        return x

    def is_floating(self, x: Array) -> bool:
        """Whether its entries are real floating-point numbers."""
        if isinstance(x.dtype, np.dtype):
            return x.dtype.kind == "f"
        return bool(self.isdtype(x.dtype, "real floating"))

    @staticmethod
    def on_host(x: Array) -> Any:
        """The array as numpy's; here the host waits for the device."""
        return np.asarray(x)

    # Differentiation.

    @staticmethod
    def stop_gradient(x: Array) -> Array:
        """The same values, as constants to the framework that differentiates."""
        return x

    @staticmethod
    def may_be_differentiated(x: Array) -> bool:
        """Whether somebody may ask for a gradient by this array."""
        return False

    def slopes(self, function: Callable[[Array], Array], points: Array) -> Array | None:
        """The gradient, by its argument, of the sum of what a function gives; to be differentiated again.

        None where it does not depend on it; in JAX the gradient is 0 there.
        """
        raise TypeError("numpy does not differentiate")

    # Functions.

    def between(self, x: Array, low: float, high: float) -> Array:
        """``min(max(x, low), high)``; NaN stays, the gradient is 0 on the bounds and beyond them."""
        bottom, top = self.like(low), self.like(high)
        return self.where(x <= bottom, bottom, self.where(x >= top, top, x))

    def sqrt(self, x: Array) -> Array:
        """The square root; its derivative at 0 is 0, as that of a norm is, and not infinite."""
        return self._module.sqrt(x)

    def _sqrt(self, x: Array) -> Array:
        # Twice chosen: a root of 0 must not even be differentiated where it is not taken. NaN is no 0.
        some = x != 0
        return self.where(some, self._module.sqrt(self.where(some, x, 1.0)), x)

    def sigmoid(self, x: Array) -> Array:
        e = self.exp(-self.abs(x))  # at most 1: no overflow on either side
        return self.astype(self.where(x >= 0, 1 / (1 + e), e / (1 + e)), x.dtype)

    def row_products(self, a: Array, b: Array) -> Array:
        """The inner products of all rows of ``a`` with all rows of ``b``, not rounded to a narrower type."""
        return self.matmul(a, self.matrix_transpose(b))


_KNOWN: dict[Any, Namespace] = {}


def _restored(kind: type[Namespace], module: str, dtype: Any, device: Any) -> Namespace:
    return kind(importlib.import_module(module), dtype, device)
