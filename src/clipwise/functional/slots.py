"""What is known about a parameter from its name and shape."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

from clipwise.errors import ArgumentError, ParameterError

__all__ = ["Slot", "UnitAxes", "make_slots"]

UnitAxes: TypeAlias = Mapping[str, int | tuple[int, ...] | None]
"""Shell patterns of names to the axes that tell a weight's units apart; None: all of it is one unit."""

EMBEDDINGS = ("embedding", "embeddings")
"""What flax and Keras call the table of an embedding, whose units are its rows, in every framework."""


@dataclass(frozen=True)
class Slot:
    """One parameter.

    Attributes:
        name: qualified name, with dots.
        shape: shape of the parameter.
        axes: the axes along which its units lie, ascending; empty if it is one unit.
        embedding: whether it is the table of an embedding.
        groups: number of groups into which axis 0 is split first, as a new axis in front; the axes are
            counted after that.
        alias: the name that patterns are compared with, if it is another one.
        normalised: whether the optimizer normalises its gradient itself, which is then not clipped.
    """

    name: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    embedding: bool = False
    groups: int = 1
    alias: str = ""
    normalised: bool = False

    @property
    def known_as(self) -> str:
        """The name that patterns are compared with."""
        return self.alias or self.name

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def units(self) -> int:
        """Number of units; an empty weight is one."""
        shape = self.shape
        if self.groups > 1:
            shape = (self.groups, shape[0] // self.groups, *shape[1:])
        return math.prod(shape[axis] for axis in self.axes) if self.size else 1

    @property
    def has_rows(self) -> bool:
        """Whether its units lie along axis 0, or it is a vector that is one unit: so it is in PyTorch."""
        return self.groups == 1 and self.axes == ((0,) if len(self.shape) > 1 else ())

    @property
    def rest(self) -> tuple[int, ...]:
        """The axes within a unit."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.axes)


def make_slots(
    shapes: Iterable[tuple[str, tuple[int, ...]]],
    unit_axes: UnitAxes | None = None,
    known: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Slot, ...]:
    """Slots of kernels whose last axis is the output, ``(..., in, out)``, as in JAX, Keras and TensorFlow.

    A vector or a number is one unit. The units of an embedding's table, which is recognised by its name, are
    its rows.

    Args:
        shapes: names and shapes, in order.
        unit_axes: the user's choice; the first matching pattern wins.
        known: the framework's choice, by name.

    Raises:
        ArgumentError: an axis is not a whole number, or the weight does not have it.
        ParameterError: a pattern matches nothing.

    >>> make_slots([("dense.kernel", (3, 4)), ("dense.bias", (4,))])[0].axes
    (1,)
    """
    shapes = list(shapes)
    for pattern in unit_axes or {}:
        if shapes and not any(fnmatchcase(name, pattern) for name, _ in shapes):
            names = ", ".join(repr(name) for name, _ in shapes[:5])
            raise ParameterError(
                f"unit_axes: the pattern {pattern!r} matches no parameter; the parameters are {names}"
            )
    return tuple(_slot(name, tuple(shape), unit_axes or {}, known or {}) for name, shape in shapes)


def _slot(name: str, shape: tuple[int, ...], said: UnitAxes, known: Mapping[str, tuple[int, ...]]) -> Slot:
    embedding = len(shape) == 2 and name.rpartition(".")[2] in EMBEDDINGS
    pattern = next((p for p in said if fnmatchcase(name, p)), None)
    if pattern is not None:
        axes = _checked(pattern, said[pattern], name, shape)
    elif len(shape) < 2:
        axes = ()
    elif name in known:
        axes = tuple(sorted(known[name]))
    else:
        axes = (0,) if embedding else (len(shape) - 1,)
    return Slot(name, shape, axes, embedding)


def _checked(
    pattern: str, axes: int | tuple[int, ...] | None, name: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    given = () if axes is None else tuple(axes) if isinstance(axes, Sequence) else (axes,)
    rank = len(shape)
    for axis in given:
        if isinstance(axis, bool) or not isinstance(axis, int) or not -rank <= axis < rank:
            raise ArgumentError(
                f"unit_axes: {pattern!r} says {axes!r}, and {name!r} of shape {shape} has no axis {axis!r}"
            )
    return tuple(sorted({axis % rank for axis in given}))
