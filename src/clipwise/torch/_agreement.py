"""What ranks exchange as objects: their tables of parameters, once, and errors, so that all ranks raise."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from clipwise.errors import ClipwiseError
from clipwise.functional.slots import Slot
from clipwise.torch._cover import (
    Cover,
    Places,
    connected,
    cover_of_meshes,
    cover_of_ranks,
    places_of,
    refuse_places,
    spans_of,
)
from clipwise.torch._placements import refuse_placements
from clipwise.torch._process_groups import Declared, ProcessGroups
from clipwise.torch._roster import Entry, Table, merged, refuse_unmatched, table_of

__all__ = ["agreed", "raise_everywhere"]


def agreed(
    parameters: Mapping[str, Tensor], slots: Sequence[Slot], given: ProcessGroups | None
) -> tuple[Cover, list[Entry]]:
    """The ranks that clip together, and the parameters of all of them; two exchanges, once.

    An error on one rank is raised on every rank that takes part.

    Args:
        parameters: of this rank.
        slots: their slots.
        given: ``process_groups=``; with it all ranks of the run take part, otherwise those of the meshes.

    Raises:
        ArgumentError, ParameterError: as for `Declared` and `merged`, or a placement is not supported.
    """
    table, declared, error = None, None, None
    asked = cover_of_meshes(parameters) if given is None else _everyone()
    places, spans = places_of(parameters), spans_of(parameters)
    try:
        refuse_placements(parameters)
        if given is not None:
            declared = Declared(given)
            places = places._replace(meshes=places.meshes | declared.kinds)
            refuse_places(places)
            spans = spans + declared.spans
        table = table_of(parameters, slots, declared)
    except ClipwiseError as caught:
        error = caught
    told = None if error is None else (type(error), str(error))
    own = [None if len(span) == dist.get_world_size() else span for span in spans]
    said = _gathered(asked, (told, table and table.digest, own, places))
    _raise_first([one[0] for one in said], error, asked.ranks)
    digests = [one[1] for one in said]
    rank = dist.get_rank()
    first = digests.index(digests[asked.ranks.index(rank)])
    assert table is not None
    tables: list[Table | None] = [None] * len(digests)
    tables[first] = table
    if len(set(digests)) > 1:
        tables = _gathered(asked, table if asked.ranks[first] == rank else None)
    known = {digest: one for digest, one in zip(digests, tables, strict=True) if one is not None}
    every = list(zip(asked.ranks, (known[digest] for digest in digests), strict=True))
    refuse_unmatched(_by_table(every, asked.ranks))
    if given is None:
        return asked, merged(_by_table(every, asked.ranks), rank)
    entries: list[Entry] = []
    islands = connected([one[2] for one in said])
    for island in islands:  # what is wrong on another one is an error here, too
        found = merged(_by_table(every, island), rank)
        entries = found if rank in island else entries
    own_island = next(island for island in islands if rank in island)
    together = [one[3] for rank, one in zip(asked.ranks, said, strict=True) if rank in own_island]
    meshes = frozenset().union(*[one.meshes for one in together])
    tensors = frozenset().union(*[one.tensors for one in together])
    return cover_of_ranks(own_island, Places(meshes, tensors)), entries


def _everyone() -> Cover:
    return Cover(tuple(range(dist.get_world_size())), dist.group.WORLD, None)


def _by_table(every: Sequence[tuple[int, Table]], wanted: Sequence[int]) -> list[tuple[list[int], Table]]:
    """Each table that some of the wanted ranks have, with those ranks."""
    among, found = set(wanted), dict[int, tuple[list[int], Table]]()
    for rank, table in every:
        if rank in among:
            found.setdefault(id(table), ([], table))[0].append(rank)
    return list(found.values())


def _gathered(cover: Cover, own: Any) -> list[Any]:
    if cover.group is None:
        return [own]
    found: list[Any] = [None] * len(cover.ranks)
    dist.all_gather_object(found, own, group=cover.group)
    return found


def raise_everywhere(cover: Cover, error: ClipwiseError | None) -> None:
    """Raise an error of one rank on all of them. All ranks call it at the same time."""
    told = None if error is None else (type(error), str(error))
    _raise_first(_gathered(cover, told), error, cover.ranks)


def _raise_first(
    told: Sequence[tuple[type[ClipwiseError], str] | None],
    own: ClipwiseError | None,
    ranks: Sequence[int],
) -> None:
    if own is not None:
        raise own
    for rank, one in zip(ranks, told, strict=True):
        if one is not None:
            kind, text = one
            raise kind(f"rank {rank}: {text}")
