"""The ranks that decide together: the smallest group that contains every mesh and every declared group."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from clipwise.errors import ArgumentError
from clipwise.torch._placements import mesh_of

__all__ = [
    "Cover",
    "Places",
    "connected",
    "cover_of_meshes",
    "cover_of_ranks",
    "places_of",
    "refuse_places",
    "spans_of",
]

_made: dict[tuple[int, ...], tuple[Any, Any]] = {}
"""The groups made here, with the world that they were made in."""


class Places(NamedTuple):
    """Types of devices, such as ``"cpu"``.

    Attributes:
        meshes: of the meshes.
        tensors: on which parameters are, where there is no mesh.
    """

    meshes: frozenset[str]
    tensors: frozenset[str]


class Cover(NamedTuple):
    """Some ranks and how they communicate.

    Attributes:
        ranks: in the world, ascending.
        group: their process group; None: this is the only rank.
        device: device that it sends from; None: any.
    """

    ranks: tuple[int, ...]
    group: Any
    device: torch.device | None


def _roots(parameters: Mapping[str, Tensor]) -> list[Any]:
    """The meshes. One that was cut out of a larger one counts as that: what it does not split, it repeats."""
    found: list[Any] = []
    for mesh in {id(mesh): mesh for p in parameters.values() if (mesh := mesh_of(p)) is not None}.values():
        root = mesh._get_root_mesh() if hasattr(mesh, "_get_root_mesh") else mesh
        if all(root is not other for other in found):
            found.append(root)
    return found


def spans_of(parameters: Mapping[str, Tensor]) -> list[tuple[int, ...]]:
    """The ranks of each mesh, ascending."""
    return [tuple(sorted(root.mesh.flatten().tolist())) for root in _roots(parameters)]


def places_of(parameters: Mapping[str, Tensor]) -> Places:
    """The devices of all meshes, and those of the parameters."""
    meshes = {root.device_type for root in _roots(parameters)}
    return Places(frozenset(meshes), frozenset(p.device.type for p in parameters.values()))


def cover_of_meshes(parameters: Mapping[str, Tensor]) -> Cover:
    """The cover of ranks that know each other from the meshes alone, without communication.

    If no mesh contains the others, all ranks of the run.
    """
    spans = spans_of(parameters)
    widest = max(spans, key=len)
    if any(not set(span) <= set(widest) for span in spans):
        widest = tuple(range(dist.get_world_size()))
    whole = len(widest) == dist.get_world_size()
    for root in () if whole else _roots(parameters):
        if root.ndim == 1 and tuple(sorted(root.mesh.tolist())) == widest:
            group = root.get_group()
            return Cover(widest, group, _sending_device(places_of(parameters), group))
    return cover_of_ranks(widest, places_of(parameters))


def cover_of_ranks(ranks: Sequence[int], places: Places) -> Cover:
    """That of some ranks, each of which asks for it.

    Args:
        ranks: ascending.
        places: of all of them together.

    Raises:
        ArgumentError: the meshes are of different devices.
    """
    ranks = tuple(ranks)
    if len(ranks) == dist.get_world_size():
        group = dist.group.WORLD
    elif len(ranks) == 1:
        return Cover(ranks, None, None)
    else:
        world, group = _made.get(ranks, (None, None))
        if world is not dist.group.WORLD:
            group = dist.new_group(list(ranks), use_local_synchronization=True)
            _made[ranks] = dist.group.WORLD, group
    return Cover(ranks, group, _sending_device(places, group))


def refuse_places(places: Places) -> None:
    """ArgumentError if the meshes are of different devices."""
    if len(places.meshes) > 1:
        raise ArgumentError(
            f"the parameters lie on meshes of different devices: {', '.join(sorted(places.meshes))}"
        )


def _sending_device(places: Places, group: Any) -> torch.device | None:
    """Where a group sends numbers from; None: from wherever they are."""
    refuse_places(places)
    kinds = places.meshes or places.tensors & {device.type for device in group._device_types}
    kind = next(iter(kinds - {"cpu"}), None)
    return None if kind is None else torch.device(kind, torch.get_device_module(kind).current_device())


def connected(spans: Sequence[Sequence[tuple[int, ...] | None]]) -> list[list[int]]:
    """The ranks that are connected by groups with common members.

    Args:
        spans: for each rank the ranks of the groups it is in; None: all ranks.
    """
    count = len(spans)
    if any(span is None for own in spans for span in own):
        return [list(range(count))]
    parents = list(range(count))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = place = parents[parents[place]]
        return place

    for place, own in enumerate(spans):
        for other in {other for span in own for other in span or ()}:
            parents[root(other)] = root(place)
    found: dict[int, list[int]] = {}
    for place in range(count):
        found.setdefault(root(place), []).append(place)
    return list(found.values())
