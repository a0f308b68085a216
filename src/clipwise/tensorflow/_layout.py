"""Structures of gradients and variables as named slots with shapes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from clipwise.errors import ParameterError
from clipwise.functional.slots import Slot, UnitAxes, make_slots
from clipwise.namespace import Array


@dataclass(frozen=True)
class FlatGradients:
    """Gradients laid out over the variables.

    Attributes:
        slots: one per variable, or per gradient if no variables were given.
        gradients: by slot, dense or `tf.IndexedSlices`; None if missing.
        weights: by slot; None if no variables were given.
        structure: the original structure of gradients.
        places: for each leaf of that structure the index of its slot; None for a leaf without one.
    """

    slots: tuple[Slot, ...]
    gradients: list[Any]
    weights: list[Array] | None
    structure: Any
    places: list[int | None]

    def rebuilt(self, gradients: Sequence[Any]) -> Any:
        """Other gradients by slot, in the original structure."""
        leaves = [None if place is None else gradients[place] for place in self.places]
        return tf.nest.pack_sequence_as(self.structure, leaves)


def slots_of(variables: Any, unit_axes: UnitAxes | None) -> tuple[Slot, ...]:
    """The slots of variables, or of gradients in their place.

    Raises:
        ParameterError: one is not a floating-point tensor, or its shape is unknown.
    """
    laid = lay_out(variables, None, unit_axes, "variable")
    return laid.slots


def lay_out(
    grads: Any, variables: Any, unit_axes: UnitAxes | None, what: str = "gradient of"
) -> FlatGradients:
    """The gradients by slot. Slots are those of the variables if they are given, otherwise of the gradients.

    Args:
        grads, variables: structures.
        unit_axes: as for `clip`.
        what: what gradients are called in errors, before the name of a variable.

    Raises:
        ParameterError: a gradient is not a floating-point tensor, does not have the shape of its variable, or
            the number of variables differs.
    """
    leaves = tf.nest.flatten(grads)
    owners = leaves if variables is None else tf.nest.flatten(variables)
    if len(owners) != len(leaves):
        raise ParameterError(f"there are {len(leaves)} gradients and {len(owners)} variables")
    names = _unique(_names(grads if variables is None else variables, owners))
    leaves = [
        _slices(name, leaf, what) if isinstance(leaf, tf.IndexedSlices) else leaf
        for name, leaf in zip(names, leaves, strict=True)
    ]
    owners = leaves if variables is None else owners

    places: list[int | None] = []
    shapes: list[tuple[str, tuple[int, ...]]] = []
    gradients: list[Any] = []
    chosen: list[Any] = []
    seen: dict[int, int] = {}
    for name, leaf, owner in zip(names, leaves, owners, strict=True):
        if owner is None:
            if leaf is not None:
                raise ParameterError(f"there is a gradient of {name!r}, and its variable is None")
            places.append(None)
            continue
        known = seen.get(id(owner)) if variables is not None or _is_variable(owner) else None
        if known is not None:  # of a variable that is listed twice the gradient is the same, twice
            gradients[known] = leaf if gradients[known] is None else gradients[known]
            places.append(known)
            continue
        seen[id(owner)] = len(shapes)
        places.append(len(shapes))
        shape = _shape(name, owner)
        gradient = None if leaf is None else _of_shape(name, _gradient(name, leaf, what), shape)
        shapes.append((name, shape))
        gradients.append(gradient)
        chosen.append(owner)
    weights = None if variables is None else [tf.convert_to_tensor(owner) for owner in chosen]
    return FlatGradients(make_slots(shapes, unit_axes), gradients, weights, grads, places)


def _gradient(name: str, leaf: Any, what: str) -> Any:
    if not isinstance(leaf, tf.IndexedSlices):
        if isinstance(leaf, tf.SparseTensor | tf.RaggedTensor | str | bytes):
            raise ParameterError(f"the {what} {name!r} must be a tensor, got {type(leaf).__name__}")
        try:
            leaf = tf.convert_to_tensor(leaf)
        except (TypeError, ValueError) as error:
            raise ParameterError(f"the {what} {name!r} must be a tensor, got {leaf!r}") from error
    if not (leaf.dtype.is_floating or leaf.dtype.is_complex):
        raise ParameterError(f"the {what} {name!r} must be of floats, got {leaf.dtype.name}")
    return leaf


def _slices(name: str, slices: Any, what: str) -> Any:
    """The slices as tensors: TensorFlow keeps a tuple as their shape, or numpy's arrays, as they come."""
    try:
        values, indices = map(tf.convert_to_tensor, (slices.values, slices.indices))
        shape = slices.dense_shape
        if isinstance(shape, tf.TensorShape):
            shape = shape.as_list() if shape.is_fully_defined() else None
        return tf.IndexedSlices(values, indices, None if shape is None else tf.convert_to_tensor(shape))
    except (TypeError, ValueError) as error:
        raise ParameterError(f"the {what} {name!r} must be slices of a tensor, got {slices!r}") from error


def _of_shape(name: str, gradient: Any, shape: tuple[int, ...]) -> Any:
    """The gradient, known to be of its variable's shape."""
    if not gradient.shape.is_compatible_with(shape):
        raise ParameterError(f"the gradient of {name!r} has shape {gradient.shape}, the variable {shape}")
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient if gradient.shape.is_fully_defined() else tf.ensure_shape(gradient, shape)
    values = gradient.values
    if not shape or not values.shape.is_compatible_with((None, *shape[1:])):
        raise ParameterError(
            f"the gradient of {name!r} is of slices of shape {values.shape}, which are not rows of {shape}"
        )
    if values.shape[1:].is_fully_defined():
        return gradient
    values = tf.ensure_shape(values, (None, *shape[1:]))
    return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)


def _shape(name: str, owner: Any) -> tuple[int, ...]:
    shape = tf.TensorShape(getattr(owner, "shape", None) if hasattr(owner, "shape") else np.shape(owner))
    if shape.is_fully_defined():
        return tuple(shape)
    sparse = "its slices need a dense_shape, or " if isinstance(owner, tf.IndexedSlices) else ""
    raise ParameterError(f"the shape of {name!r} is not known here; {sparse}give variables")


def _is_variable(value: Any) -> bool:
    return isinstance(value, tf.Variable) or hasattr(value, "path")


def _names(structure: Any, leaves: Sequence[Any]) -> list[str]:
    """The variables' own names, or else where the leaves are: "1", "encoder.kernel"."""
    paths = list(_paths(structure, ()))
    if len(paths) != len(leaves):  # of a kind of structure that only tf.nest knows
        paths = [(str(place),) for place in range(len(leaves))]
    return [_own_name(leaf) or ".".join(path) for path, leaf in zip(paths, leaves, strict=True)]


def _own_name(leaf: Any) -> str | None:
    """``dense.kernel`` of a variable of Keras (path dense/kernel) or TensorFlow (name dense/kernel:0)."""
    if not _is_variable(leaf):
        return None
    name = getattr(leaf, "path", None) or leaf.name
    return str(name).partition(":")[0].replace("/", ".") or None


def _paths(structure: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The keys on the way to each leaf, in the order of `tf.nest.flatten`."""
    if isinstance(structure, Mapping):
        for key in sorted(structure):
            yield from _paths(structure[key], (*path, str(key)))
    elif isinstance(structure, tuple | list) and not isinstance(structure, tf.TensorShape):
        fields = getattr(structure, "_fields", range(len(structure)))
        for key, part in zip(fields, structure, strict=True):
            yield from _paths(part, (*path, str(key)))
    else:
        yield path or ("0",)


def _unique(names: Sequence[str]) -> list[str]:
    """Names that are given once: the second ``w`` is ``w_1``, as TensorFlow counts."""
    taken, found = Counter(names), []
    given: set[str] = set()
    for name in names:
        number, unique = 0, name
        while unique in given or (number and unique in taken):
            number += 1
            unique = f"{name}_{number}"
        given.add(unique)
        found.append(unique)
    return found
