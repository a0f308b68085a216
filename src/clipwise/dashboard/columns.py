"""Series and layer norms of the runs, cached in memory; only new data is read from the file."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipwise.monitor.store import Floats, Layers, Series, Store

NOTHING = Series(np.zeros(0, dtype=np.int64), np.zeros(0))


class Column:
    """A growing series; its arrays double in size, so that appending is cheap."""

    def __init__(self) -> None:
        self.last = 0  # the frame that was read last
        self._size = 0
        self._steps: NDArray[np.int64] = np.zeros(256, dtype=np.int64)
        self._values: Floats = np.zeros(256)

    def __len__(self) -> int:
        return self._size

    @property
    def series(self) -> Series:
        return Series(self._steps[: self._size], self._values[: self._size])

    @property
    def bytes(self) -> int:
        return self._steps.nbytes + self._values.nbytes

    def add(self, new: Series) -> None:
        """Append values, or insert those that belong further to the front."""
        old, size = self._size, self._size + len(new.steps)
        late = old > 0 and len(new.steps) > 0 and new.steps[0] < self._steps[old - 1]
        self._steps = _longer(self._steps, old, new.steps)
        self._values = _longer(self._values, old, new.values)
        self._size = size
        if late:
            # Into arrays of their own: what was handed out stays what it was.
            order = np.argsort(self._steps[:size], kind="stable")
            self._steps, self._values = self._steps[:size][order], self._values[:size][order]


class LayerTable:
    """The layer norms of a source, which grow by rows and sometimes by columns."""

    def __init__(self) -> None:
        self.last = 0
        self.names: tuple[str, ...] = ()
        self._size = 0
        self._steps: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self._norms: Floats = np.zeros((0, 0))
        self._absent: NDArray[np.bool_] = np.ones((0, 0), dtype=bool)

    def read(self, store: Store, run: int, source: str, rank: int) -> Layers:
        """The current content of the file; valid until the next call."""
        found = store.layers(run, source, rank=rank, after=self.last)
        self.last = found.last
        if len(found.steps):
            self._add(found)
        size = self._size
        return Layers(self._steps[:size], self.names, self._norms[:size], self._absent[:size])

    def _add(self, new: Layers) -> None:
        more = tuple(name for name in new.names if name not in set(self.names))
        if more:
            self.names += more
            pad = ((0, 0), (0, len(more)))
            self._norms = np.pad(self._norms, pad, constant_values=np.nan)
            self._absent = np.pad(self._absent, pad, constant_values=True)
        old, size = self._size, self._size + len(new.steps)
        self._steps = _longer(self._steps, old, new.steps)
        place = {name: i for i, name in enumerate(self.names)}
        where = [place[name] for name in new.names]
        shape = size - old, len(place)
        norms, absent = np.full(shape, np.nan), np.ones(shape, dtype=bool)
        norms[:, where], absent[:, where] = new.norms, new.absent
        self._norms, self._absent = _longer(self._norms, old, norms), _longer(self._absent, old, absent)
        self._size = size
        if old and new.steps[0] < self._steps[old - 1]:
            order = np.argsort(self._steps[:size], kind="stable")
            self._steps, self._norms = self._steps[:size][order], self._norms[:size][order]
            self._absent = self._absent[:size][order]


def _longer(array: Any, size: int, more: Any) -> Any:
    """The first rows of an array and some more, in it or in one twice as long."""
    end = size + len(more)
    if end > len(array):
        room = np.zeros((max(end, 2 * len(array)) - size, *array.shape[1:]), array.dtype)
        array = np.concatenate([array[:size], room])
    array[size:end] = more
    return array


class Columns:
    """The series of the runs that were requested last. To be used by one thread at a time.

    Args:
        budget: bytes of memory; the least recently requested runs are dropped first.
    """

    def __init__(self, budget: int = 1 << 29) -> None:
        self._budget = budget
        self._runs: OrderedDict[tuple[int, int], dict[tuple[str, str], Column]] = OrderedDict()

    def read(
        self, store: Store, run: int, names: Iterable[str], source: str = "", rank: int | None = None
    ) -> Mapping[str, Series]:
        """The current values of some series of a source; a series that does not exist is empty."""
        # The lowest rank may be another one than the last time.
        rank = store.rank(run) if rank is None else rank
        columns = self._runs.setdefault((run, rank), {})
        self._runs.move_to_end((run, rank))
        wanted, there = list(dict.fromkeys(names)), set(store.names(run, source))
        behind: dict[int, list[str]] = {}
        for name in wanted:
            if name in there:  # of others, which anybody may ask for, nothing is kept
                behind.setdefault(columns.setdefault((source, name), Column()).last, []).append(name)
        for last, some in behind.items():
            found = store.series(run, some, source, rank=rank, after=last)
            for name in some:
                columns[source, name].last = found.last
                if name in found:
                    columns[source, name].add(found[name])
        self._forget()
        known = {name: columns.get((source, name)) for name in wanted}
        return {name: NOTHING if column is None else column.series for name, column in known.items()}

    def clear(self) -> None:
        self._runs.clear()

    def _forget(self) -> None:
        used = {key: sum(column.bytes for column in run.values()) for key, run in self._runs.items()}
        while len(self._runs) > 1 and sum(used.values()) > self._budget:
            key, _ = self._runs.popitem(last=False)
            del used[key]
