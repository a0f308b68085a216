"""What an activation asks of the framework of its argument.

`own_of` finds the module of the framework: `_numpy`, `_torch`, `_jax` or `_tensorflow`. Each has the names

- ``is_own(x)``: whether it is an array of this framework; ``as_array(x)``: it, or a number as an array.
- ``is_floating(x)``: whether its entries are real floating-point numbers.
- ``between(x, low, high)``: bounded by two numbers, gradient 0 at the bounds and beyond; NaN stays.
- ``like(value, x)``: a number or an array in the dtype of ``x``, on its device.
- ``where``, ``maximum``, ``reshape``, ``sigmoid``, ``tanh``, ``repeated(x, count, axis)``, ``arange(stop,
  x)``, ``largest(x, axes)``, ``smallest(x, axis)``.
- ``products(q, k)``: of all rows of ``q`` with all rows of ``k``, in float32 or wider.
"""

import sys
from types import ModuleType

from clipwise.errors import ArgumentError
from clipwise.functional.activations import _numpy
from clipwise.namespace import Array

__all__ = ["floating", "own_of"]


def own_of(x: Array, name: str = "x") -> ModuleType:
    """The module of the framework that an array is of; ArgumentError for what is no array."""
    if _numpy.is_own(x):
        return _numpy
    # A framework is touched only where it is loaded. Plain imports, which torch's compiler can follow.
    if "torch" in sys.modules:
        from clipwise.functional.activations import _torch

        if _torch.is_own(x):
            return _torch
    if "jax" in sys.modules:
        from clipwise.functional.activations import _jax

        if _jax.is_own(x):
            return _jax
    if "tensorflow" in sys.modules:
        from clipwise.functional.activations import _tensorflow

        if _tensorflow.is_own(x):
            return _tensorflow
    raise ArgumentError(f"{name} must be an array of numpy, torch, JAX or TensorFlow, got {type(x).__name__}")


def floating(x: Array, name: str = "x") -> tuple[ModuleType, Array]:
    """The module of an array's framework and the array; ArgumentError unless its entries are real floats."""
    own = own_of(x, name)
    x = own.as_array(x)
    if not own.is_floating(x):
        raise ArgumentError(f"{name} must be of floating-point numbers, got {x.dtype}")
    return own, x
