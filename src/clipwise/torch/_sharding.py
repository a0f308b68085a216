"""Parameters that are spread over ranks: who holds what, and the one small collective that makes norms whole.

The structure is read once, and all ranks agree on it. What is sent in a step follows from it alone and never
from the gradients that happen to be there, so that no rank waits for one that has none. Powers of norms are
summed in float64, each rank's share weighted by one over the number of ranks that hold the same numbers: a
replica counts once, and all ranks end up with the same bits.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from clipwise.errors import ArgumentError
from clipwise.torch._placements import is_sharded, layout_key, mesh_of, pieces_of, refuse_placements, rows_of

__all__ = ["LocalNorms", "Sharding", "sharding_of"]

_MOST_KEPT = 64
_SAFE_ORDER = 4.0
"""Up to here the sum of powers of whatever float32 holds stays within float64."""


class LocalNorms(NamedTuple):
    """Norms of this rank's parts of some parameters.

    Attributes:
        norms: one vector, wide.
        order: p of the p-norm.
        shares: what each counts in a sum over the ranks: one over the number of ranks that hold the same.
        wide: some of the entries may be float64, whose powers may leave its range.
    """

    norms: Tensor
    order: float
    shares: Tensor
    wide: bool


class Sharding:
    """How some parameters are spread over the ranks of one group.

    Args:
        parameters: by name; at least one is a DTensor.
        agree: ask all ranks, in collectives, whether they have the same parameters.

    Attributes:
        shares: for each parameter one over the number of ranks that hold the same numbers.
        rows: for each parameter what `rows_of` says, if ranks were asked to agree.

    Raises:
        ArgumentError: a layout that is not taken, or ranks that have other parameters. Every rank says so.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, agree: bool = True) -> None:
        refuse_placements(parameters)
        self.group, self.size, self._device = _group_of(parameters)
        pieces: dict[Any, int] = {}
        self.shares = []
        for parameter in parameters.values():
            key = layout_key(parameter)
            if key not in pieces:
                pieces[key] = pieces_of(parameter)
            self.shares.append(pieces[key] / self.size)
        self._kept: dict[Any, tuple[Any, Tensor]] = {}
        self.rows: list[range | None] = [rows_of(p) for p in parameters.values()] if agree else []
        self.wide = [p.dtype in (torch.float64, torch.complex128) for p in parameters.values()]
        if agree:
            _agree(parameters, self.group, self.size)

    def __deepcopy__(self, memo: Any) -> "Sharding":
        return self  # it holds nothing that changes

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"group": None, "_kept": {}}  # a process group belongs to its process

    def kept(self, key: tuple[Any, Any], like: Tensor, make: Callable[[], list[float]]) -> Tensor:
        """Numbers that stay the same from step to step, where norms are: put there once.

        Args:
            key: whose they are, an object that lives as long as they are wanted, and what.
            like: of their device and dtype.
            make: gives them.
        """
        owner, what = key
        place = id(owner), what, like.device
        found = self._kept.get(place)
        if found is None or found[0] is not owner:
            if len(self._kept) >= _MOST_KEPT:
                self._kept.clear()
            found = self._kept[place] = owner, like.new_tensor(make())
        return found[1]

    def whole(
        self, parts: Sequence[LocalNorms], extra: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor | None]:
        """The norms of whole parameters on every rank, and the sum of some numbers over the ranks.

        One all-reduce; one more, of the largest, where a norm is the infinity norm or where powers could
        leave the range of float64.

        Args:
            parts: the same ones on every rank.
            extra: a vector of numbers to be summed, 0 where a rank has none.
        """
        largest = self._largest([one for one in parts if _by_largest(one)])
        sums, divisors = [], []
        for one in parts:
            if one.order == math.inf:
                continue
            ratios = one.norms
            if _by_largest(one):
                top = largest[id(one)]
                divisors.append(torch.where((top > 0) & top.isfinite(), top, torch.ones_like(top)))
                ratios = ratios / divisors[-1]
            powers = ratios * ratios if one.order == 2.0 else ratios**one.order
            sums.append(powers * one.shares)
        lengths = [len(one) for one in sums]
        if extra is not None:
            sums.append(extra)
        if not sums:
            return [largest[id(one)] for one in parts], None
        pieces = list(self._reduced(torch.cat(sums), dist.ReduceOp.SUM).split([*map(len, sums)]))
        total = pieces.pop() if extra is not None else None
        assert [len(piece) for piece in pieces] == lengths
        found = []
        for one in parts:
            if one.order == math.inf:
                found.append(largest[id(one)])
                continue
            piece = pieces.pop(0)
            norms = piece.sqrt() if one.order == 2.0 else piece ** (1.0 / one.order)
            found.append(norms * divisors.pop(0) if _by_largest(one) else norms)
        return found, total

    def summed(self, values: Tensor) -> Tensor:
        """The sum of some numbers over the ranks: one all-reduce."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def _largest(self, parts: Sequence[LocalNorms]) -> dict[int, Tensor]:
        """The largest norm over the ranks: NaN where one is NaN, which MAX by itself may lose."""
        if not parts:
            return {}
        norms = torch.cat([one.norms for one in parts])
        lost = norms.isnan()
        sent = torch.cat([torch.where(lost, torch.zeros_like(norms), norms), lost.to(norms.dtype)])
        tops, flags = self._reduced(sent, dist.ReduceOp.MAX).chunk(2)
        tops = torch.where(flags > 0, torch.full_like(tops, math.nan), tops)
        pieces = tops.split([len(one.norms) for one in parts])
        return {id(one): piece for one, piece in zip(parts, pieces, strict=True)}

    def _reduced(self, values: Tensor, op: Any) -> Tensor:
        # Where gradients are offloaded to the host, only these few numbers go to the group's device.
        sent = values.to(self._device) if self._device is not None else values.clone()
        dist.all_reduce(sent, op, group=self.group)
        return sent.to(values.device)


def sharding_of(parameters: Mapping[str, Tensor]) -> Sharding | None:
    """How these are spread over ranks; None if none of them is a DTensor."""
    return Sharding(parameters) if any(map(is_sharded, parameters.values())) else None


def _by_largest(part: LocalNorms) -> bool:
    return part.order > _SAFE_ORDER or part.wide


def _group_of(parameters: Mapping[str, Tensor]) -> tuple[Any, int, torch.device | None]:
    """The group of all ranks that hold a part, how many they are, and where it sends numbers from.

    A mesh that was cut out of a larger one counts as that: what it says nothing of, ranks hold alike.
    """
    roots: list[Any] = []
    for mesh in {id(mesh): mesh for p in parameters.values() if (mesh := mesh_of(p)) is not None}.values():
        root = mesh._get_root_mesh() if hasattr(mesh, "_get_root_mesh") else mesh
        if all(root is not other for other in roots):
            roots.append(root)
    members = [sorted(root.mesh.flatten().tolist()) for root in roots]
    if any(ranks != members[0] for ranks in members):
        raise ArgumentError(
            "the parameters lie on meshes of different ranks "
            f"({' and '.join(map(str, members))}): meshes in one model must cover the same ranks"
        )
    kinds = {root.device_type for root in roots}
    if len(kinds) > 1:
        raise ArgumentError(f"the parameters lie on meshes of different devices: {', '.join(sorted(kinds))}")
    ranks, kind = members[0], kinds.pop()
    device = None if kind == "cpu" else torch.device(kind, torch.get_device_module(kind).current_device())
    if len(ranks) == dist.get_world_size():
        return dist.group.WORLD, len(ranks), device
    single = next((root for root in roots if root.ndim == 1), None)
    if single is None:
        raise ArgumentError(
            f"the parameters lie on a mesh of several dimensions over {len(ranks)} of"
            f" {dist.get_world_size()} ranks: one that does not cover all ranks must have one dimension"
        )
    return single.get_group(), len(ranks), device


def _agree(parameters: Mapping[str, Tensor], group: Any, size: int) -> None:
    """ArgumentError, on every rank, if the ranks of a group have other parameters than each other."""
    table = [_row(name, parameter) for name, parameter in parameters.items()]
    digest = hashlib.sha256("\n".join(table).encode()).hexdigest()
    digests: list[Any] = [None] * size
    dist.all_gather_object(digests, digest, group=group)
    if len(set(digests)) == 1:
        return
    tables: list[Any] = [None] * size
    dist.all_gather_object(tables, table, group=group)
    other = next(rank for rank, one in enumerate(tables) if one != tables[0])
    longest = max(len(tables[0]), len(tables[other]))
    ends = [[*tables[rank], *["nothing"] * (longest - len(tables[rank]))] for rank in (0, other)]
    first, second = next(pair for pair in zip(*ends, strict=True) if pair[0] != pair[1])
    raise ArgumentError(
        f"the ranks clip different parameters: rank 0 of the group has {first}, rank {other} has {second}."
        " Stages of a pipeline, and experts as plain tensors, are not taken yet"
    )


def _row(name: str, parameter: Any) -> str:
    placements = ", ".join(map(str, getattr(parameter, "placements", ())))
    placed = f" as ({placements})" if placements else ""
    return f"{name!r} {tuple(parameter.shape)} {parameter.dtype}{placed}"
