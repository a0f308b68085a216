"""The user's declaration of parameters that differ between the ranks of a group, which no mesh describes."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple, TypeAlias

import torch.distributed as dist

from clipwise.errors import ArgumentError

__all__ = ["Declared", "ProcessGroups", "Standing", "as_mapping"]

ProcessGroups: TypeAlias = Mapping[str, Any]
"""Shell patterns of names to a `ProcessGroup`, a `DeviceMesh`, None, or the name of another parameter."""


class Standing(NamedTuple):
    """The declaration for one parameter.

    Attributes:
        key: its name, or that of the parameter it is tied to.
        pattern: the matching pattern; empty: another parameter is tied to it; None: nothing is declared.
        position: position of this rank if each rank has a different parameter; (): all have the same.
    """

    key: str
    pattern: str | None
    position: tuple[int, ...]


class Declared:
    """The content of ``process_groups=``; the first pattern that matches a name wins.

    Args:
        given: the mapping.

    Attributes:
        patterns: in order.
        spans: the ranks of each group.
        kinds: device types of the meshes among them.

    Raises:
        ArgumentError: it is not such a mapping, torch.distributed is not initialised, or this rank is not in
            one of the groups.
    """

    def __init__(self, given: ProcessGroups) -> None:
        self._given = dict(given)
        self.patterns = tuple(self._given)
        self.spans: list[tuple[int, ...]] = []
        self.kinds: set[str] = set()
        self._positions: dict[str, tuple[int, ...]] = {}
        for pattern, group in self._given.items():
            if group is None or isinstance(group, str):
                self._positions[pattern] = ()
            elif hasattr(group, "mesh_dim_names"):
                self._take_mesh(pattern, group)
            else:
                self._take_group(pattern, group)
        self._tied_to = {name for name in self._given.values() if isinstance(name, str)}

    def _take_mesh(self, pattern: str, mesh: Any) -> None:
        ranks, coordinate = tuple(mesh.mesh.flatten().tolist()), mesh.get_coordinate()
        if coordinate is None:
            raise ArgumentError(_not_in(pattern, ranks))
        self._positions[pattern] = tuple(coordinate)
        self.spans.append(ranks)
        self.kinds.add(mesh.device_type)

    def _take_group(self, pattern: str, group: Any) -> None:
        if group is dist.GroupMember.NON_GROUP_MEMBER:
            raise ArgumentError(_not_in(pattern, None))
        if not isinstance(group, dist.ProcessGroup):
            raise ArgumentError(
                f"process_groups: {pattern!r} must have a torch.distributed process group, a DeviceMesh, the"
                f" name of a parameter, or None (the same on all ranks that have it), got {group!r}"
            )
        ranks = tuple(dist.get_process_group_ranks(group))
        if dist.get_rank() not in ranks:
            raise ArgumentError(_not_in(pattern, ranks))
        self._positions[pattern] = (ranks.index(dist.get_rank()),)
        self.spans.append(ranks)

    def of(self, name: str) -> Standing:
        """What is declared of a parameter."""
        if name in self._tied_to:
            return Standing(name, "", ())
        pattern = next((pattern for pattern in self.patterns if fnmatchcase(name, pattern)), None)
        if pattern is None:
            return Standing(name, None, ())
        tied = self._given[pattern]
        return Standing(tied if isinstance(tied, str) else name, pattern, self._positions[pattern])


def as_mapping(given: Any) -> ProcessGroups | None:
    """The checks that every rank can make by itself.

    Raises:
        ArgumentError: it is not a mapping from patterns, or there is no process group at all.
    """
    if given is None:
        return None
    if not isinstance(given, Mapping) or not all(isinstance(pattern, str) for pattern in given):
        raise ArgumentError(
            "process_groups must map patterns of names to process groups, such as"
            f" {{'*.experts.*': group}}, got {given!r}"
        )
    if not given:
        return None
    if not (dist.is_available() and dist.is_initialized()):
        raise ArgumentError(
            "process_groups needs a process group: call torch.distributed.init_process_group first"
        )
    return given


def _not_in(pattern: str, ranks: tuple[int, ...] | None) -> str:
    whose = "" if ranks is None else f", which has the ranks {', '.join(map(str, ranks))}"
    return (
        f"process_groups: rank {dist.get_rank()} is not in the group of {pattern!r}{whose}:"
        " give each rank the group that it belongs to"
    )
