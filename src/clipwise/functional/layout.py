"""Which parameters have a gradient, and what follows from their shapes: sizes, units, positions of norms."""

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from clipwise.clip import Norm, Per
from clipwise.functional.slots import Slot
from clipwise.namespace import Array, Namespace

__all__ = ["Layout", "Part", "Places", "starts_of"]

Places = tuple[int, ...]


class Layout:
    """The slots of some arrays among all slots, and what turns norms of parts into norms of wholes.

    What it has made of arrays it keeps. Where arrays may belong to a trace it lives no longer than that.

    Args:
        slots: all that there may be, in the order of a state.
        xp: where the norms live.
        present: the places of those of which there is an array; None: all.

    Attributes:
        slots: those of which there is an array.
        names: of these.
        entries: how many they have together, a sparse one as if it were dense.
    """

    def __init__(self, slots: Sequence[Slot], xp: Namespace, present: Places | None = None) -> None:
        self.xp = xp
        self.all_slots = slots
        self.present = tuple(range(len(slots))) if present is None else present
        self.complete = len(self.present) == len(slots)
        self.slots = tuple(slots[place] for place in self.present)
        self.names = tuple(slot.name for slot in self.slots)
        self.sizes = [slot.size for slot in self.slots]
        self.entries = sum(self.sizes)
        self._sizes: dict[Per, Array] = {}
        self._roots: dict[Per, Array] = {}
        self._parts: dict[Places, Part] = {}
        self._orders: dict[tuple[Places, ...], Array] = {}
        self._spreads: dict[Per, tuple[Array, Array]] = {}

    @cached_property
    def unit_counts(self) -> list[int]:
        """How many units each array has."""
        return [slot.units for slot in self.slots]

    @cached_property
    def unit_starts(self) -> tuple[Any, Any]:
        """Where the units of each array begin among all, and how many it has, as numpy's whole numbers."""
        counts = np.asarray(self.unit_counts, dtype=np.intp)
        return np.cumsum(counts) - counts, counts

    @cached_property
    def units(self) -> int:
        """How many units they have together."""
        return sum(self.unit_counts)

    @cached_property
    def has_rows(self) -> bool:
        """Whether the units of all lie along axis 0."""
        return all(slot.has_rows for slot in self.slots)

    def counts(self, per: Per) -> list[int]:
        """How many groups each array has."""
        return self.unit_counts if per == "unit" else [1] * len(self.slots)

    def group_sizes(self, per: Per) -> Array:
        """The number of entries of each group."""
        if per not in self._sizes:
            self._sizes[per] = self._array(self._by_group(per))
        return self._sizes[per]

    def roots(self, per: Per) -> Array:
        """What the 2-norm of each group is divided by to be its root mean square."""
        if per not in self._roots:
            self._roots[per] = self._array([math.sqrt(max(size, 1)) for size in self._by_group(per)])
        return self._roots[per]

    def root(self, norm: Norm) -> float:
        """What the joint 2-norm is divided by to be the root mean square; 1 for other norms."""
        return math.sqrt(max(self.entries, 1)) if norm == "rms" else 1.0

    def _by_group(self, per: Per) -> list[float]:
        pairs = zip(self.sizes, self.counts(per), strict=True)
        return [size / count for size, count in pairs for _ in range(count)]

    # Some of the arrays.

    def part(self, places: Places) -> "Part":
        """Those of the arrays that are of the slots at some places."""
        if places not in self._parts:
            here = {place: position for position, place in enumerate(self.present)}
            own = tuple(number for number, place in enumerate(places) if place in here)
            chosen = [here[places[number]] for number in own]
            layout = Layout([self.all_slots[place] for place in places], self.xp, own)
            self._parts[places] = Part(chosen, self._index(chosen), layout)
        return self._parts[places]

    def order(self, shares: tuple[Places, ...]) -> Array:
        """Where each array is if those of the slots of each share come one after the other."""
        if shares not in self._orders:
            there = set(self.present)
            joined = [place for share in shares for place in share if place in there]
            where = {place: position for position, place in enumerate(joined)}
            self._orders[shares] = self._index([where[place] for place in self.present])
        return self._orders[shares]

    # Groups of these arrays among the groups of all slots.

    def spread(self, norms: Array, per: Per) -> Array:
        """Norms of the groups as those of the groups of all slots: 0 where there is no array."""
        _, sources = self._spread(per)
        return self.xp.take(self.xp.concat([norms, self.xp.zeros((1,))]), sources, axis=0)

    def gathered(self, values: Array, per: Per) -> Array:
        """Of values of the groups of all slots those of the arrays that are there."""
        places, _ = self._spread(per)
        return self.xp.take(values, places, axis=0)

    def _spread(self, per: Per) -> tuple[Array, Array]:
        if per not in self._spreads:
            counts = [slot.units if per == "unit" else 1 for slot in self.all_slots]
            starts = starts_of(counts)
            places = [group for i in self.present for group in range(starts[i], starts[i + 1])]
            sources = [len(places)] * starts[-1]  # one after the last is where there is nothing
            for source, place in enumerate(places):
                sources[place] = source
            self._spreads[per] = self._index(places), self._index(sources)
        return self._spreads[per]

    def _array(self, values: Sequence[float]) -> Array:
        return self.xp.asarray(values, dtype=self.xp.float_dtype)

    def _index(self, values: Sequence[int]) -> Array:
        return self.xp.asarray(values, dtype=self.xp.int32)


def starts_of(counts: Sequence[int]) -> list[int]:
    """Where the groups of each parameter begin among all, and one more for the end."""
    return list(itertools.accumulate(counts, initial=0))


class Part(NamedTuple):
    """Some of the arrays of a layout.

    Attributes:
        chosen: their positions among the arrays.
        index: the same as an array.
        layout: theirs.
    """

    chosen: list[int]
    index: Array
    layout: Layout
