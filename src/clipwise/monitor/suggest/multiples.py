"""Finds runs whose gradients are a whole multiple of another run's: a sum instead of a mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from clipwise.monitor.store import Run, Store
from clipwise.wording import printable

__all__ = ["Multiple", "Multiples", "multiple_of_another"]

MOST, RUNS = 4096, 100
"""The largest multiple that is looked for, and in how many runs, the newest ones."""

_CLOSE = 1e-3

_First: TypeAlias = tuple[int, dict[str, float]]


@dataclass(frozen=True)
class Multiple:
    """The first gradients of a run are ``ratio`` times those of another run, for every parameter.

    Runs with the same seed that differ in the number of ranks or micro-batches have the same first gradient,
    unless one sums what the other averages. The ratio has to be the same for all parameters, because the
    global norms of two runs may have a whole ratio by chance.

    Attributes:
        step: step at which the gradients were recorded.
        ratio: a whole number, or 1 divided by one.
        other: the other run.
    """

    step: int
    ratio: float
    other: Run

    @property
    def short(self) -> str:
        """Short form for lists: ``8 x 'other'``."""
        return f"{'' if self.ratio > 1 else '1/'}{self._whole} x {printable(self.other.name)!r}"

    def __str__(self) -> str:
        times = f"{self._whole} times" if self.ratio > 1 else f"1/{self._whole} of"
        return (
            f"At step {self.step:,} its gradients are exactly {times} those of run"
            f" {printable(self.other.name)!r}, parameter by parameter, as a sum over {self._whole} ranks or"
            " micro-batches is to their mean. So the same threshold is stricter in one run than in the other,"
            f" by a factor of {self._whole}."
        )

    @property
    def _whole(self) -> int:
        return round(max(self.ratio, 1.0 / self.ratio))


class Multiples:
    """Finds multiples, and caches what was read and compared."""

    def __init__(self) -> None:
        self._sources: dict[int, list[str]] = {}
        self._firsts: dict[tuple[int, str], _First] = {}
        self._ratios: dict[tuple[int, int, str], float | None] = {}

    def clear(self) -> None:
        self._sources.clear()
        self._firsts.clear()
        self._ratios.clear()

    def among(self, store: Store) -> dict[int, Multiple]:
        """The newest runs that are a multiple of one before them, by their numbers."""
        runs = _newest(store)
        found: dict[int, Multiple] = {}
        for place, run in enumerate(runs):
            for source in self._clippers(store, run):
                multiple = self.of(store, run, source, runs[place + 1 :])
                if multiple is not None:
                    found.setdefault(run.id, multiple)
        return found

    def of(self, store: Store, run: Run, source: str, others: Sequence[Run]) -> Multiple | None:
        """The first of some runs that a run is a multiple of."""
        own = self._first(store, run.id, source)
        for other in () if own is None else others:
            theirs = self._first(store, other.id, source)
            if own is None or theirs is None:
                continue
            pair = (run.id, other.id, source)
            if pair not in self._ratios:
                self._ratios[pair] = _ratio(own, theirs)
            ratio = self._ratios[pair]
            if ratio is not None:
                return Multiple(own[0], ratio, other)
        return None

    def _clippers(self, store: Store, run: Run) -> list[str]:
        """Those of gradients; of a run that goes on some may be still to come."""
        found = self._sources.get(run.id)
        if found is None:
            found = store.clippers(run.id, weights=False)
            if run.status != "running":
                self._sources[run.id] = found
        return found

    def _first(self, store: Store, run: int, source: str) -> _First | None:
        """The first norms by parameter; of a run that goes on they may be still to come."""
        found = self._firsts.get((run, source))
        if found is None:
            found = store.first_layers(run, source)
            if found is not None:
                self._firsts[run, source] = found
        return found


def multiple_of_another(
    store: Store, run: Run, source: str, known: Multiples | None = None
) -> Multiple | None:
    """Another run of the recording, of whose first gradients this run's are a whole multiple.

    Args:
        store, run, source: as for `Store.series`.
        known: what was read before.
    """
    others = [other for other in _newest(store) if other.id != run.id]
    return (Multiples() if known is None else known).of(store, run, source, others)


def _newest(store: Store) -> list[Run]:
    return sorted(store.runs(), key=lambda one: -one.id)[:RUNS]


def _ratio(ours: _First, theirs: _First) -> float | None:
    """The whole number, or 1 divided by one, by which all norms differ; None if there is none."""
    if ours[0] != theirs[0] or ours[1].keys() != theirs[1].keys():
        return None
    a, b = (np.asarray([one[1][name] for name in ours[1]]) for one in (ours, theirs))
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or ((a > 0) != (b > 0)).any():
        return None
    a, b = a[a > 0], b[b > 0]
    if len(a) < 2:
        return None
    ratios = a / b
    found = float(np.median(ratios))
    whole = round(max(found, 1.0 / found))
    exact = float(whole) if found > 1 else 1.0 / whole
    if not 2 <= whole <= MOST or (np.abs(ratios / exact - 1.0) > _CLOSE).any():
        return None
    return exact
