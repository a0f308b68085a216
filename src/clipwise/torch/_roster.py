"""The parameters of all ranks, merged from the tables that the ranks exchange once."""

import dataclasses
import difflib
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipwise.errors import ArgumentError, ParameterError
from clipwise.functional.slots import Slot
from clipwise.torch._placements import are_rows_in_order, mesh_of, pieces_of
from clipwise.torch._process_groups import Declared, Standing

__all__ = ["Entry", "Row", "Table", "merged", "refuse_unmatched", "table_of"]


class Row(NamedTuple):
    """One parameter of a rank, in plain values that can be sent and compared.

    Attributes:
        standing: its declaration.
        slot: of the whole parameter.
        dtype: its dtype.
        placements: on its mesh, in words; empty: a plain tensor.
        pieces: number of shards.
        ranks: number of ranks of its mesh.
        in_order: whether each rank has consecutive rows.
    """

    standing: Standing
    slot: Slot
    dtype: torch.dtype
    placements: str
    pieces: int
    ranks: int
    in_order: bool

    def __str__(self) -> str:
        placed = f" as ({self.placements})" if self.placements else ""
        return f"{self.slot.name!r} {self.slot.shape} {self.dtype}{placed}"


class Table(NamedTuple):
    """The parameters of a rank.

    Attributes:
        rows: its parameters.
        patterns: of ``process_groups=``.
    """

    rows: tuple[Row, ...]
    patterns: tuple[str, ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()


class Entry(NamedTuple):
    """One parameter of all ranks together.

    Attributes:
        slot: of the whole parameter, with the name that all ranks use.
        share: one over the number of ranks that hold the same numbers.
        dtype: its dtype.
        in_order: as in `Row`.
        name: of this rank's own parameter; None: it has none.
        compared: equality on all ranks is assumed and not declared, so it is checked.
        pieces: number of shards.
    """

    slot: Slot
    share: float
    dtype: torch.dtype
    in_order: bool
    name: str | None
    compared: bool
    pieces: int


def table_of(parameters: Mapping[str, Tensor], slots: Sequence[Slot], declared: Declared | None) -> Table:
    """This rank's table; it does not depend on the rank's position in a mesh."""
    rows = []
    layouts: dict[Any, tuple[str, int, int, bool]] = {}
    for (name, parameter), slot in zip(parameters.items(), slots, strict=True):
        mesh, placements = mesh_of(parameter), getattr(parameter, "placements", ())
        key = id(mesh), placements, parameter.ndim
        if key not in layouts:
            layouts[key] = (
                ", ".join(map(str, placements)),
                pieces_of(parameter),
                1 if mesh is None else mesh.size(),
                are_rows_in_order(parameter),
            )
        standing = Standing(name, None, ()) if declared is None else declared.of(name)
        rows.append(Row(standing, slot, parameter.dtype, *layouts[key]))
    return Table(tuple(rows), () if declared is None else declared.patterns)


def merged(tables: Sequence[tuple[Sequence[int], Table]], rank: int) -> list[Entry]:
    """The parameters of all ranks, in an order that is the same on all of them.

    Args:
        tables: different ones, each with the ranks that have it, that of the first rank first.
        rank: this one.

    Raises:
        ArgumentError: the ranks have different parameters, and nothing declares it.
    """
    count = sum(len(ranks) for ranks, _ in tables)
    first: dict[Any, tuple[int, Row]] = {}
    holders: dict[Any, int] = {}
    own: dict[Any, str] = {}
    for ranks, table in tables:
        here: set[Any] = set()
        is_own = rank in ranks
        for row in table.rows:
            key = row.standing.key, row.standing.position
            other, known = first.setdefault(key, (ranks[0], row))
            _refuse_other(known, other, row, ranks[0])
            if key in here:
                raise ArgumentError(
                    f"rank {ranks[0]} has {row.slot.name!r} and what it is tied to, {row.standing.key!r}, as"
                    " two parameters: tie them within the rank"
                )
            here.add(key)
            holders[key] = holders.get(key, 0) + len(ranks)
            if is_own:
                own[key] = row.slot.name
    _refuse_different(tables, first, holders, count)

    positions: dict[str, int] = {}
    for key, _ in first:
        positions[key] = positions.get(key, 0) + 1
    found = []
    for (name, position), (_, row) in first.items():
        several = positions[name] > 1
        full = f"{name}@{','.join(map(str, position))}" if several and position else name
        slot = dataclasses.replace(row.slot, name=full, alias=name if several else "")
        here_as, held = own.get((name, position)), holders[name, position]
        compared = row.standing.pattern is None and held > row.ranks
        share = row.pieces / held
        found.append(Entry(slot, share, row.dtype, row.in_order, here_as, compared, row.pieces))
    return found


def _refuse_other(known: Row, rank: int, row: Row, other: int) -> None:
    """ArgumentError if what should be one parameter is not the same on two ranks."""
    if (known.slot.shape, *known[2:]) != (row.slot.shape, *row[2:]):
        raise ArgumentError(
            f"the ranks have different parameters: rank {rank} has {known}, rank {other} has {row}. {_HINT}"
        )


def _refuse_different(
    tables: Sequence[tuple[Sequence[int], Table]],
    first: Mapping[Any, tuple[int, Row]],
    holders: Mapping[Any, int],
    count: int,
) -> None:
    for key, (rank, row) in first.items():
        if row.standing.pattern is not None or holders[key] == count:
            continue
        lacking = next(
            ranks[0]
            for ranks, table in tables
            if all((one.standing.key, one.standing.position) != key for one in table.rows)
        )
        raise ArgumentError(
            f"the ranks have different parameters: rank {rank} has {row}, which rank {lacking} lacks. {_HINT}"
        )
    orders = [[row.standing.key for row in table.rows if row.standing.pattern is None] for _, table in tables]
    for (ranks, _), order in zip(tables, orders, strict=True):
        for one, other in zip(orders[0], order, strict=True):
            if one != other:
                raise ArgumentError(
                    f"the ranks have their parameters in another order: where rank {tables[0][0][0]} has"
                    f" {one!r}, rank {ranks[0]} has {other!r}"
                )


def refuse_unmatched(tables: Sequence[tuple[Sequence[int], Table]]) -> None:
    """Check that ``process_groups=`` of all ranks fits their parameters.

    Raises:
        ArgumentError: the ranks give different patterns.
        ParameterError: a pattern, or a parameter name in place of a group, matches no parameter.
    """
    patterns = tables[0][1].patterns
    for ranks, table in tables:
        if table.patterns != patterns:
            raise ArgumentError(
                f"process_groups: rank {tables[0][0][0]} gives the patterns {', '.join(map(repr, patterns))},"
                f" rank {ranks[0]} {', '.join(map(repr, table.patterns))}: every rank gives the same ones"
            )
    every = [row for _, table in tables for row in table.rows]
    matched = {row.standing.pattern for row in every}
    names = sorted({row.slot.name for row in every})
    for pattern in patterns:
        if pattern not in matched:
            nearest = difflib.get_close_matches(pattern.strip("*."), names, n=3, cutoff=0.0)
            raise ParameterError(
                f"process_groups: the pattern {pattern!r} matches no parameter of any rank; the nearest are"
                f" {', '.join(map(repr, nearest))}"
            )
    for row in every:
        if row.standing.key not in names:
            raise ParameterError(
                f"process_groups: {row.slot.name!r} is said to be tied to {row.standing.key!r}, and no rank"
                " has a parameter of that name"
            )


_HINT = (
    "For stages of a pipeline, and experts as plain tensors, say of which group each rank has its own:"
    " process_groups={'pattern': group}"
)
