"""Series of the runs in memory, read from the file once and then only what is new."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from clipwise.monitor.store import Floats, Series, Store

__all__ = ["Column", "Columns"]

NOTHING = Series(np.zeros(0, dtype=np.int64), np.zeros(0))


class Column:
    """One series that grows at its end; its arrays double, so that adding costs nothing to speak of."""

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
        """Append, or sort in what belongs further to the front."""
        size = self._size + len(new.steps)
        if size > len(self._steps):
            room = max(size, 2 * len(self._steps))
            self._steps = np.concatenate([self._steps[: self._size], np.zeros(room - self._size, np.int64)])
            self._values = np.concatenate([self._values[: self._size], np.zeros(room - self._size)])
        late = self._size > 0 and len(new.steps) > 0 and new.steps[0] < self._steps[self._size - 1]
        self._steps[self._size : size] = new.steps
        self._values[self._size : size] = new.values
        self._size = size
        if late:
            # Into arrays of their own: what was handed out stays what it was.
            order = np.argsort(self._steps[:size], kind="stable")
            self._steps, self._values = self._steps[:size][order], self._values[:size][order]


class Columns:
    """The series of several runs, those that were asked for last; not for several threads at once.

    Args:
        budget: bytes that may be kept; the runs that were asked for longest ago go first.
    """

    def __init__(self, budget: int = 1 << 29) -> None:
        self._budget = budget
        self._runs: OrderedDict[tuple[int, int | None], dict[str, Column]] = OrderedDict()

    def read(
        self, store: Store, run: int, names: Iterable[str], rank: int | None = None
    ) -> Mapping[str, Series]:
        """Some series of a run as they are now; one that it does not have is empty."""
        columns = self._runs.setdefault((run, rank), {})
        self._runs.move_to_end((run, rank))
        wanted = list(dict.fromkeys(names))
        behind: dict[int, list[str]] = {}
        for name in wanted:
            behind.setdefault(columns.setdefault(name, Column()).last, []).append(name)
        for last, some in behind.items():
            found = store.series(run, some, rank, after=last)
            for name in some:
                columns[name].last = found.last
                if name in found:
                    columns[name].add(found[name])
        self._forget()
        return {name: columns[name].series for name in wanted}

    def clear(self) -> None:
        self._runs.clear()

    def _forget(self) -> None:
        used = {key: sum(column.bytes for column in run.values()) for key, run in self._runs.items()}
        while len(self._runs) > 1 and sum(used.values()) > self._budget:
            key, _ = self._runs.popitem(last=False)
            del used[key]
