"""How one parameter lies over the ranks of its mesh, and what this rank holds of it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clipwise.errors import ArgumentError, ParameterError

__all__ = [
    "are_rows_in_order",
    "is_sharded",
    "layout_key",
    "local",
    "mesh_of",
    "partial_axes",
    "piece_of",
    "pieces_of",
    "refuse_other_layout",
    "refuse_placements",
    "row_index",
    "rows_of",
]


def is_sharded(tensor: Any) -> bool:
    """Whether this is a DTensor, of whatever placements."""
    return hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, without autograd."""
    held: Tensor = getattr(tensor, "_local_tensor", tensor)  # `to_local` asks for more with every tensor
    return held


def refuse_placements(parameters: Mapping[str, Tensor]) -> None:
    """ArgumentError if one is laid out over ranks in a way that is not taken."""
    seen = set()
    for name, parameter in parameters.items():
        layout = layout_key(parameter)
        if layout in seen:
            continue
        seen.add(layout)
        for placement in getattr(parameter, "placements", ()):
            if not (placement.is_replicate() or type(placement).__name__ in ("Shard", "_StridedShard")):
                raise ArgumentError(
                    f"{name!r} is placed as {placement} on its mesh: a clip takes parameters that are"
                    " sharded or replicated"
                )
        mesh = getattr(parameter, "device_mesh", None)
        if mesh is not None and mesh.get_coordinate() is None:
            raise ArgumentError(
                f"{name!r} lies on a mesh of other ranks than this one ({mesh}): give each rank the"
                " optimizer of its own parameters"
            )


def layout_key(parameter: Any) -> tuple[int, Any]:
    return id(mesh_of(parameter)), getattr(parameter, "placements", None)


def mesh_of(parameter: Any) -> Any:
    return getattr(parameter, "device_mesh", None)


def pieces_of(parameter: Any) -> int:
    """Into how many pieces it is split: all ranks that hold the same one are its replicas."""
    return math.prod(count for count, _ in _splits(parameter))


def piece_of(parameter: Any) -> int:
    """Which of its pieces is here."""
    found = 0
    for count, place in _splits(parameter):
        found = found * count + place
    return found


def _splits(parameter: Any) -> list[tuple[int, int]]:
    """Along each axis of its mesh that splits it, into how many parts, and which of them is here."""
    if not is_sharded(parameter):
        return []
    mesh = parameter.device_mesh
    split = [axis for axis, placement in enumerate(parameter.placements) if not placement.is_replicate()]
    return [(mesh.size(axis), mesh.get_coordinate()[axis]) for axis in split]


def are_rows_in_order(parameter: Any) -> bool:
    """Whether each rank has slices along axis 0 that follow each other, as far as placements say."""
    return parameter.ndim == 0 or all(
        placement.is_replicate() or placement.dim % parameter.ndim != 0 or type(placement).__name__ == "Shard"
        for placement in getattr(parameter, "placements", ())
    )


def rows_of(parameter: Any) -> range | None:
    """Which slices along axis 0 are here, in whole or in part; None where they do not follow each other.

    Empty for a number.
    """
    rows = range(parameter.shape[0] if parameter.ndim else 0)
    placements = getattr(parameter, "placements", ())
    for axis, placement in enumerate(placements):
        if placement.is_replicate() or placement.dim % parameter.ndim != 0:
            continue
        if type(placement).__name__ != "Shard":
            return None
        length = -(-len(rows) // parameter.device_mesh.size(axis))
        begin = parameter.device_mesh.get_coordinate()[axis] * length
        rows = rows[begin : begin + length]
    return rows if not placements or parameter.ndim == 0 or len(rows) == local(parameter).shape[0] else None


def partial_axes(name: str, parameter: Any, gradient: Any) -> tuple[str, ...]:
    """By what a gradient is still to be reduced along each axis of the mesh, before it lies as its parameter.

    Returns:
        ``"sum"``, ``"avg"`` or nothing for each axis; (): it lies as its parameter does.

    Raises:
        ParameterError: it lies over the ranks in another way.
    """
    if getattr(parameter, "_spec", None) is getattr(gradient, "_spec", None):  # as it nearly always is
        return ()
    wanted, found = getattr(parameter, "placements", None), getattr(gradient, "placements", None)
    same_mesh = wanted is None or (found is not None and gradient.device_mesh == parameter.device_mesh)
    if wanted == found and same_mesh:
        return ()
    if wanted is not None and found is not None and same_mesh:
        ways = [
            "" if one == other else str(getattr(other, "reduce_op", "no partial sum"))
            for one, other in zip(wanted, found, strict=True)
        ]
        if all(way in ("", "sum", "avg") for way in ways):
            return tuple(ways)
    placed = [
        f"as ({', '.join(map(str, one))})" if one is not None else "as a plain tensor"
        for one in (found, wanted)
    ]
    raise ParameterError(
        f"the gradient of {name!r} is distributed {placed[0]} and its parameter {placed[1]}:"
        " redistribute the gradient to the parameter's placements before the step"
    )


def row_index(parameter: Any) -> Tensor:
    """Which slices along axis 0 of a DTensor this rank holds, in whole or in part, in their order here."""
    mesh, rows = parameter.device_mesh, torch.arange(parameter.shape[0])
    split = [
        (axis, placement)
        for axis, placement in enumerate(parameter.placements)
        if not placement.is_replicate() and placement.dim % parameter.ndim == 0
    ]
    # One in strides splits what those behind it have left.
    for axis, _ in sorted(split, key=lambda pair: type(pair[1]).__name__ != "Shard"):
        parts, own = rows.chunk(mesh.size(axis)), mesh.get_coordinate()[axis]
        rows = parts[own] if own < len(parts) else rows[:0]
    return rows


def refuse_other_layout(name: str, parameter: Any, gradient: Any) -> None:
    """ParameterError if a gradient does not lie over the ranks as its parameter does."""
    if partial_axes(name, parameter, gradient):
        raise ParameterError(
            f"the gradient of {name!r} is a partial sum on each rank"
            f" ({', '.join(map(str, gradient.placements))}): redistribute it to the parameter's placements"
            " before the step"
        )
