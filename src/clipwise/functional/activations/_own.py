"""What an activation asks of the framework of its argument.

`own_of` finds the module of the framework: `_numpy`, `_torch`, `_jax` or `_tensorflow`. Each has the names

- ``is_own(x)``: whether it is an array of this framework; ``as_array(x)``: it, or a number as an array.
- ``is_floating(x)``, ``is_boolean(x)``: whether its entries are real floating-point numbers, or booleans.
- ``between(x, low, high)``: bounded by two numbers, gradient 0 at the bounds and beyond; NaN stays.
- ``like(value, x)``: a number or an array in the dtype of ``x``, on its device.
- ``spread(bound, x)``: an array as ``like``, whose gradient is summed in float32 or wider.
- ``where``, ``maximum``, ``sigmoid``, ``tanh``, ``arange(stop, x)``, ``largest(x, axes)``, ``smallest(x,
  axis)``; ``reshape(x, shape)``, where a length that is not known is that of the same axis of ``x``.
- ``widened(x, other)``: ``x`` in the wider type of both, float32 at least.
- ``products(q, k)``: of all rows of ``q`` with all rows of ``k``.
"""

import sys
from types import ModuleType

from clipwise.errors import ArgumentError
from clipwise.functional.activations import _numpy
from clipwise.namespace import Array

__all__ = ["broadcasts", "fits", "floating", "own_of", "shape_of"]


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


def shape_of(x: Array, name: str = "x") -> tuple[int | None, ...]:
    """The lengths of the axes, None where TensorFlow does not know one; ArgumentError if it knows none."""
    if getattr(x.shape, "rank", 0) is None:
        raise ArgumentError(f"{name} must have a known number of axes: set its shape, or trace with one")
    return tuple(x.shape)


def fits(ours: int | None, theirs: int | None) -> bool:
    """Whether an axis of one length broadcasts to an axis of another, as far as they are known."""
    # TensorFlow compiles with lengths of None, and torch with symbols that `in` does not compare.
    return ours is None or theirs is None or ours == 1 or ours == theirs


def broadcasts(ours: tuple[int | None, ...], theirs: tuple[int | None, ...]) -> bool:
    """Whether one shape broadcasts to another without making it larger, as far as both are known."""
    pairs = zip(reversed(ours), reversed(theirs), strict=False)
    return len(ours) <= len(theirs) and not [1 for one, other in pairs if not fits(one, other)]
