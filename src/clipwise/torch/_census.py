"""The first step: how gradients are placed on all ranks, and whether replicas have equal gradients.

Ranks exchange a few integers per parameter in one collective (MAX). A number ``n`` is sent together with
``~n``, whose maximum belongs to the smallest ``n``: the numbers are equal on all ranks if both maxima agree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from clipwise.errors import ClipwiseError, ParameterError
from clipwise.torch._agreement import raise_everywhere
from clipwise.torch._placements import local, piece_of
from clipwise.torch._roster import Entry
from clipwise.torch._sharding import Sharding
from clipwise.torch.engines.reference import tensor_norm, values_of

__all__ = ["Census", "Ways", "census"]

Ways = tuple[str, ...]
"""As `partial_axes` gives them."""

_WAYS = ("", "sum", "avg")
_NONE = torch.iinfo(torch.int64).min
_ODD = torch.iinfo(torch.int64).max
"""In the place of how a gradient lies: it is none that is taken; of its entries: they are not finite."""


class Census(NamedTuple):
    """What the ranks found out.

    Attributes:
        ways: for each parameter how its gradient is placed on every rank that has one; None: no rank has one.
        complete: some rank has a gradient, and all gradients to be compared are finite.
    """

    ways: list[Ways | None]
    complete: bool


def census(
    sharding: Sharding,
    parameters: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    ways: Sequence[Ways | None],
    error: ClipwiseError | None,
) -> Census:
    """Ask all ranks; needs a host-device sync.

    Args:
        sharding: of all parameters.
        parameters: for each entry the parameter of this rank, or None.
        gradients: their gradients, or None.
        ways: how those are placed; None where there is none.
        error: a gradient of this rank has a placement that is not supported.

    Raises:
        ParameterError: on every rank: the placements of a gradient differ between ranks, or the gradients of
            a parameter that is not declared to differ between ranks differ.
    """
    lies = [_NONE if way is None else _number(way) for way in ways]
    sums: list[Tensor | int] = []
    starts = []
    for entry, parameter, gradient, way in zip(sharding.entries, parameters, gradients, ways, strict=True):
        starts.append(len(sums))
        if not entry.compared:
            continue
        own: list[Tensor | int] = [_NONE] * entry.pieces
        if parameter is not None and not way:
            own[piece_of(parameter)] = 0 if gradient is None else _checksum(local(gradient))
        sums += own
    device = next((g.device for g in gradients if g is not None), torch.device("cpu"))
    here = torch.tensor([_ODD if error else _NONE, *lies], device=device)
    checks = [torch.as_tensor(one, device=device).reshape(1) for one in sums]
    sent = torch.cat([here, *checks])
    other = torch.where(sent == _NONE, sent, ~sent)
    high, low = sharding.largest(torch.cat([sent, other])).cpu().chunk(2)
    if high[0] != _NONE:
        raise_everywhere(sharding.cover, error)
    count = len(lies) + 1
    highs, lows = high.tolist(), low.tolist()
    differ = [one != _NONE and one != ~other for one, other in zip(highs, lows, strict=True)]
    for place, entry in enumerate(sharding.entries):
        if differ[1 + place]:
            raise ParameterError(
                f"the gradient of {entry.slot.name!r} lies on some ranks as its parameter and on others as a"
                " partial sum: redistribute it to the parameter's placements before the step"
            )
    complete = any(one != _NONE for one in highs[1:count])
    for place, entry in enumerate(sharding.entries):
        for piece in range(entry.pieces if entry.compared else 0):
            at = count + starts[place] + piece
            if highs[at] == _ODD:
                complete = False  # NaN and Inf are what `nonfinite` is for; it is asked again
            elif differ[at]:
                _raise_difference(sharding, entry, gradients[place])
    ways = [None if one == _NONE else _way(one, p) for one, p in zip(highs[1:count], parameters, strict=True)]
    return Census(list(ways), complete)


def _number(way: Ways) -> int:
    found = 0
    for one in reversed(way):
        found = found * len(_WAYS) + _WAYS.index(one)
    return found


def _way(number: int, parameter: Tensor | None) -> Ways:
    found = []
    while number:
        number, one = divmod(number, len(_WAYS))
        found.append(_WAYS[one])
    axes = len(getattr(parameter, "placements", ()))
    return (*found, *[""] * (axes - len(found))) if found else ()


def _checksum(gradient: Tensor) -> Tensor:
    """The sum of the bits of its entries as integers: equal for copies, on any device."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        places = gradient._indices().sum()
    else:
        places = torch.zeros((), dtype=torch.int64, device=gradient.device)
    values = values_of(gradient.detach()).resolve_conj().resolve_neg()
    if values.is_complex():
        values = torch.view_as_real(values)
    whole = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[values.element_size()]
    total = values.view(whole).sum(dtype=torch.int64) + places
    odd = torch.full_like(total, _ODD)
    return torch.where(values.sum(dtype=torch.float64).isfinite(), total.clamp(_NONE + 1, _ODD - 1), odd)


def _raise_difference(sharding: Sharding, entry: Entry, gradient: Tensor | None) -> None:
    norm = None if gradient is None else float(tensor_norm(values_of(local(gradient)), 2.0))
    norms: list[float | None] = [None] * len(sharding.cover.ranks)
    dist.all_gather_object(norms, norm, group=sharding.cover.group)
    said = ["none" if one is None else f"of norm {one:.6g}" for one in norms]
    other = next((place for place, one in enumerate(said) if one != said[0]), 1)
    ranks = sharding.cover.ranks
    name = entry.slot.name
    raise ParameterError(
        f"the gradient of {name!r} is not the same on all ranks (rank {ranks[0]} has {said[0]},"
        f" rank {ranks[other]} {said[other]}), and nothing says that each rank has another parameter of that"
        f" name. If they do (experts or stages as plain tensors), give process_groups={{{name!r}: group}}; if"
        " not, reduce the gradient over the ranks before the step"
        f" (process_groups={{{name!r}: None}} says that they may differ by rounding)"
    )
