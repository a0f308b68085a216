"""Checks that arguments are floating-point arrays of fitting shapes, in any framework."""

from typing import Any, TypeAlias

import numpy as np

from clipwise.errors import ArgumentError
from clipwise.namespace import Array, Namespace, namespace_of

Shape: TypeAlias = tuple[int | None, ...]
"""Of an array; None for a length that is not known while a function is traced."""


def namespace_for(name: str, value: Any) -> Namespace:
    """The namespace of an array.

    Raises:
        ArgumentError: the argument is not an array.
    """
    if hasattr(value, "dtype"):
        try:
            return namespace_of(value)
        except TypeError:  # it only looks like one
            pass
    raise ArgumentError(
        f"{name} must be an array of numpy, torch, JAX or TensorFlow, got {type(value).__name__}"
    )


def floats(name: str, value: Any, must: str = "be floating-point") -> tuple[Namespace, Array]:
    """A real floating-point array (of a variable its value), and its namespace, bound to dtype and device.

    Raises:
        ArgumentError: the argument is not an array, or has another dtype.
    """
    xp = namespace_for(name, value)
    if not xp.is_floating(value):
        raise ArgumentError(f"{name} must {must}, got {getattr(value.dtype, 'name', value.dtype)}")
    return xp, xp.read(value)


def floating(name: str, value: Any) -> tuple[Namespace, Array]:
    """Like `floats`; a plain number becomes a numpy array."""
    return floats(name, np.asarray(value) if isinstance(value, (bool, int, float)) else value)


def shape_of(name: str, value: Array) -> Shape:
    """The lengths of the axes, None for a length that is only known when a graph runs.

    Raises:
        ArgumentError: not even the number of axes is known.
    """
    try:
        return tuple(value.shape)
    except ValueError as error:  # of TensorFlow
        raise ArgumentError(
            f"{name} must have a known number of axes: set its shape, or trace with one"
        ) from error


def same_length(one: int | None, other: int | None) -> bool:
    """Whether two axes have the same length, as far as they are known."""
    # Not `None in (...)`: torch compiles with symbols, which that would compare.
    return one is None or other is None or one == other


def same_shape(one: Shape, other: Shape) -> bool:
    """Whether two shapes are the same, as far as they are known."""
    return len(one) == len(other) and not [
        1 for a, b in zip(one, other, strict=True) if not same_length(a, b)
    ]


def fits(ours: int | None, theirs: int | None) -> bool:
    """Whether an axis of one length broadcasts to an axis of another, as far as they are known."""
    return ours == 1 or same_length(ours, theirs)


def broadcasts(ours: Shape, theirs: Shape) -> bool:
    """Whether one shape broadcasts to another without making it larger, as far as both are known."""
    pairs = zip(reversed(ours), reversed(theirs), strict=False)
    return len(ours) <= len(theirs) and not [1 for one, other in pairs if not fits(one, other)]


def written(shape: Shape) -> str:
    """A shape as text: ``(4, 7)``, with ``?`` for unknown lengths.

    >>> written((None, 7))
    '(?, 7)'
    """
    inner = ", ".join("?" if n is None else str(n) for n in shape)
    return f"({inner},)" if len(shape) == 1 else f"({inner})"
