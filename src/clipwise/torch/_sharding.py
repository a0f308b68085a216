"""Sharded parameters: which rank holds what, and the one small collective that computes whole norms.

The structure is read once, and all ranks agree on it. What is sent in a step depends on the structure only,
and never on which gradients exist, so that no rank waits for one that has none. Powers of norms are summed in
float64, each rank's contribution weighted by one over the number of ranks that hold the same numbers: a
replica counts once, and all ranks get bit-identical results.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from clipwise.errors import ClipwiseError, ParameterError
from clipwise.functional.slots import Slot
from clipwise.torch._agreement import agreed, raise_everywhere
from clipwise.torch._cover import Cover, cover_of_meshes
from clipwise.torch._placements import is_sharded, layout_key, pieces_of, refuse_placements, rows_of
from clipwise.torch._process_groups import ProcessGroups, as_mapping
from clipwise.torch._roster import Entry

__all__ = ["LocalNorms", "Sharding", "sharding_by_itself", "sharding_of"]

_MOST_KEPT = 64
_SAFE_ORDER = 4.0
"""Up to here the sum of powers of whatever float32 holds stays within float64."""


class LocalNorms(NamedTuple):
    """Norms of this rank's shards of some parameters.

    Attributes:
        norms: one vector, wide.
        order: p of the p-norm.
        shares: weight of each in a sum over the ranks: one over the number of ranks that hold the same
            numbers.
        wide: whether entries may be float64, whose powers may overflow.
    """

    norms: Tensor
    order: float
    shares: Tensor
    wide: bool


class Sharding:
    """How some parameters are sharded over the ranks that clip them together.

    Args:
        cover: those ranks.
        shares: for each parameter one over the number of ranks that hold the same numbers.
        dtypes: of each.
        entries: the parameters of all ranks, in an order that is the same on all of them, if they agreed.
        rows: for each of them the result of `rows_of`; an empty range where this rank has none.

    Attributes:
        slots: of the whole parameters.
        wide: whether each is float64.
    """

    def __init__(
        self,
        cover: Cover,
        shares: Sequence[float],
        dtypes: Sequence[torch.dtype],
        entries: Sequence[Entry] = (),
        rows: Sequence[range | None] = (),
    ) -> None:
        self.cover = cover
        self.shares = shares
        self.entries = entries
        self.rows = rows
        self.slots = tuple(entry.slot for entry in entries)
        self.wide = [dtype in (torch.float64, torch.complex128) for dtype in dtypes]
        self._kept: dict[Any, tuple[Any, Tensor]] = {}
        self._flag: tuple[Any, Tensor] | None = None

    def __deepcopy__(self, memo: Any) -> "Sharding":
        return self  # it holds nothing that changes

    def __getstate__(self) -> dict[str, Any]:
        cover = self.cover._replace(group=None)  # a process group belongs to its process
        return vars(self) | {"cover": cover, "_kept": {}, "_flag": None}

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

        One all-reduce; another one (MAX) for the infinity norm, or if powers could overflow float64.

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

    def largest(self, values: Tensor) -> Tensor:
        """The largest of some numbers over the ranks: one all-reduce."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def _reduced(self, values: Tensor, op: Any) -> Tensor:
        if self.cover.group is None:
            return values
        # Where gradients are offloaded to the host, only these few numbers go to the group's device.
        device = self.cover.device
        sent = values.to(device) if device is not None else values.clone()
        dist.all_reduce(sent, op, group=self.cover.group)
        return sent.to(values.device)

    # What went wrong on one rank.

    def hear(self, flag: Tensor, error: ClipwiseError | None) -> None:
        """Raise an error of any rank, on the CPU before anything was changed.

        On a device the flag is not waited for: the rank itself raises at once, the others in a later step.

        Args:
            flag: 0-d, above 0 on every rank if there was an error on one.
            error: of this rank.
        """
        if flag.device.type == "cpu":
            if float(flag) > 0:
                raise_everywhere(self.cover, error)
            return
        if error is not None:
            raise error
        if self._flag is not None and self._flag[0].query() and float(self._flag[1]) > 0:
            raise ParameterError(
                "another rank could not clip its gradients in an earlier step: see its error"
            )
        if self._flag is None or self._flag[0].query():
            copied = flag.to("cpu", non_blocking=True)
            event = torch.get_device_module(flag.device).Event()
            event.record()
            self._flag = event, copied


def sharding_of(
    parameters: Mapping[str, Tensor], slots: Sequence[Slot], process_groups: ProcessGroups | None
) -> Sharding | None:
    """How these parameters are sharded; None if none is a DTensor and no group is declared.

    Raises:
        ArgumentError, ParameterError: a placement is not supported, or the ranks have different parameters
            that no group declares. All ranks raise.
    """
    given = as_mapping(process_groups)
    if given is None and not any(map(is_sharded, parameters.values())):
        return None
    cover, entries = agreed(parameters, slots, given)
    own = [None if entry.name is None else parameters[entry.name] for entry in entries]
    rows = [range(0) if parameter is None else rows_of(parameter) for parameter in own]
    return Sharding(cover, [e.share for e in entries], [e.dtype for e in entries], entries, rows)


def sharding_by_itself(parameters: Mapping[str, Tensor]) -> Sharding:
    """The same where no rank is asked: all have the same parameters, at least one of them a DTensor."""
    refuse_placements(parameters)
    cover = cover_of_meshes(parameters)
    pieces: dict[Any, int] = {}
    shares = []
    for parameter in parameters.values():
        key = layout_key(parameter)
        if key not in pieces:
            pieces[key] = pieces_of(parameter)
        shares.append(pieces[key] / len(cover.ranks))
    return Sharding(cover, shares, [parameter.dtype for parameter in parameters.values()])


def _by_largest(part: LocalNorms) -> bool:
    return part.order > _SAFE_ORDER or part.wide
