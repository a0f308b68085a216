"""Pytrees as named leaves with shapes and units."""

import dataclasses
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from clipwise.errors import ParameterError
from clipwise.functional.slots import Slot, UnitAxes, make_slots
from clipwise.namespace import Array

Path = tuple[Hashable, ...]

_HEADS = ("query", "key", "value")
"""flax' names of the projections of attention, whose kernels are (in, heads, size of a head)."""


@dataclass(frozen=True)
class FlatGradients:
    """Gradients laid out over the parameters.

    Attributes:
        slots: of all parameters.
        gradients: by slot, None if missing.
        weights: by slot; None if no parameters were given.
        leaves: every leaf of the original tree of gradients.
        places: for each of those leaves the index of its slot; None for one that is not an array to clip.
        tree: the structure of the original tree.
    """

    slots: tuple[Slot, ...]
    gradients: list[Array | None]
    weights: list[Array] | None
    leaves: list[Any]
    places: list[int | None]
    tree: Any

    def rebuilt(self, gradients: Sequence[Array | None]) -> Any:
        """Other gradients by slot, in the original tree."""
        pairs = zip(self.leaves, self.places, strict=True)
        return self.tree.unflatten([leaf if place is None else gradients[place] for leaf, place in pairs])


def lay_out(
    gradients: Any, params: Any, unit_axes: UnitAxes | None, what: str = "gradient of"
) -> FlatGradients:
    """The gradients by slot. Slots are those of the parameters if they are given, otherwise of the gradients.

    Args:
        gradients, params: trees.
        unit_axes: as for `clip`.
        what: what gradients are called in errors, before the name of a parameter.

    Raises:
        ParameterError: a gradient is of integers, belongs to no parameter, or has another shape than its
            parameter.
    """
    found, tree = jax.tree_util.tree_flatten_with_path(gradients)
    known = found if params is None else jax.tree_util.tree_flatten_with_path(params)[0]
    owner = gradients if params is None else params
    wanted = [(path, leaf) for path, leaf in known if _is_inexact(leaf)]
    slots = _slots(owner, wanted, unit_axes)
    place_of = {path: place for place, (path, _) in enumerate(wanted)}

    by_slot: list[Array | None] = [None] * len(slots)
    places: list[int | None] = []
    for path, leaf in found:
        place = place_of.get(path)
        if getattr(leaf, "dtype", None) == jax.dtypes.float0:
            place = None  # what jax.grad gives for integers: nothing that could be clipped
        elif not _is_inexact(leaf):
            raise ParameterError(
                f"the {what} {_name(gradients, path)!r} must be an array of floats, got {_kind(leaf)}"
            )
        elif place is None:
            raise ParameterError(
                f"there is a {what} {_name(gradients, path)!r}, and no such parameter of floats: params must"
                " have the structure of the gradients"
            )
        elif np.shape(leaf) != slots[place].shape:
            raise ParameterError(
                f"the {what} {slots[place].name!r} has shape {np.shape(leaf)}, the parameter"
                f" {slots[place].shape}"
            )
        else:
            by_slot[place] = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
        places.append(place)
    weights = None if params is None else [leaf for _, leaf in wanted]
    return FlatGradients(slots, by_slot, weights, [leaf for _, leaf in found], places, tree)


def _slots(tree: Any, leaves: Sequence[tuple[Path, Any]], unit_axes: UnitAxes | None) -> tuple[Slot, ...]:
    names = [_name(tree, path) for path, _ in leaves]
    known: dict[str, tuple[int, ...]] = {}
    embeddings = set()
    for name, (path, leaf) in zip(names, leaves, strict=True):
        kind = type(_parent(tree, path))
        if kind.__module__.startswith("equinox.nn"):
            known[name] = (0,)  # equinox keeps (out, in, ...), its embedding (rows, size)
            if kind.__name__ == "Embedding":
                embeddings.add(name)
        elif np.ndim(leaf) == 3 and _is_of_heads(name):
            known[name] = (1, 2)
    shapes = [(name, tuple(np.shape(leaf))) for name, (_, leaf) in zip(names, leaves, strict=True)]
    slots = make_slots(shapes, unit_axes, known)
    return tuple(
        dataclasses.replace(slot, embedding=True) if slot.name in embeddings else slot for slot in slots
    )


def _is_of_heads(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and parts[-1] == "kernel" and parts[-2] in _HEADS


def _name(tree: Any, path: Path) -> str:
    """The keys on the way to a leaf, joined with dots; the box that flax puts around an array has none."""
    boxed = len(path) > 1 and isinstance(path[-1], GetAttrKey) and path[-1].name == "value"
    if boxed and type(_parent(tree, path)).__module__.startswith("flax."):
        path = path[:-1]
    return ".".join(_part(key) for key in path)


def _part(key: Hashable) -> str:
    match key:
        case DictKey(key=part) | FlattenedIndexKey(key=part) | SequenceKey(idx=part) | GetAttrKey(name=part):
            return str(part)
        case _:
            return str(key).strip(".[]'\"")


def _parent(tree: Any, path: Path) -> Any:
    """What holds a leaf; None where the keys do not say how to get there."""
    for key in path[:-1]:
        try:
            match key:
                case DictKey(key=part) | SequenceKey(idx=part):
                    tree = tree[part]
                case GetAttrKey(name=part):
                    tree = getattr(tree, part)
                case _:
                    return None
        except (AttributeError, LookupError, TypeError):
            return None
    return tree


def _is_inexact(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None:
        return isinstance(leaf, float | complex)
    return bool(jnp.issubdtype(dtype, jnp.inexact))


def _kind(leaf: Any) -> str:
    return f"one of {leaf.dtype}" if hasattr(leaf, "dtype") else repr(leaf)
