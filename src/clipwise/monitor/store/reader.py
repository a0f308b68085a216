"""Reads a recording, also while it is being written."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipwise.errors import StoreError, did_you_mean
from clipwise.monitor.store._file import RecordingFile
from clipwise.monitor.store._status import run_of
from clipwise.monitor.store.moments import Moment, moments_of
from clipwise.monitor.store.naming import AT_BOUND, LOSSES, NORM
from clipwise.monitor.store.overview import Overview
from clipwise.monitor.store.records import Alert, Layers, Rows, Run, Series

AT_ONCE = 5000
"""Rows that are put in order at a time."""


class Store(RecordingFile):
    """A recording opened for reading; a context manager that closes it. To be used by one thread at a time.

    Args:
        path: the file.

    Raises:
        StoreError: the file does not exist, is not a recording of clipwise, is damaged, or has another
            version. Every method raises it too if the file turns out to be damaged.
    """

    # Runs.

    def runs(self) -> list[Run]:
        """All runs, newest first."""
        rows = self._all("SELECT id, name, started, command, clip, facts FROM runs ORDER BY id DESC")
        writers: dict[int, list[Any]] = {}
        for run, *rest in self._all("SELECT run, rank, pid, host, seen, status, note FROM writers"):
            writers.setdefault(run, []).append(rest)
        self._look()
        try:
            return [run_of(row, writers.get(row[0], []), self._last.get(row[0], 0)) for row in rows]
        except (TypeError, ValueError) as error:
            raise self._damaged(error) from error

    def run(self, which: int | str | None = None) -> Run:
        """One run: by its number, by its name (the newest of that name), or the newest of all.

        Raises:
            StoreError: the run does not exist.
        """
        runs = self.runs()
        if not runs:
            raise StoreError(f"{str(self.path)!r} has no run yet")
        if which is None:
            return runs[0]
        text = str(which)
        found = next((run for run in runs if run.name == which), None) or next(
            (run for run in runs if str(run.id) == text), None
        )
        if found is None:
            names = dict.fromkeys([*(run.name for run in runs), *(str(run.id) for run in runs)])
            raise StoreError(f"no run {text!r} in {str(self.path)!r}. {did_you_mean(text, names)}")
        return found

    def overview(self) -> list[Overview]:
        """All runs, newest first, with their last loss and number of alerts."""
        runs = self.runs()
        alerts: dict[int, dict[str, int]] = {}
        for run, level, count in self._all("SELECT run, level, count(*) FROM alerts GROUP BY run, level"):
            alerts.setdefault(run, {})[level] = count
        return [Overview(run, self._last_loss(run.id), alerts.get(run.id, {})) for run in runs]

    def _last_loss(self, run: int) -> float | None:
        """Of the lowest rank, and of nobody's before that of one of several sources."""
        there = [
            (rank, source != "", source, LOSSES.index(name), name, frame)
            for (kind, source, rank, layout), frame in self._columns.get(run, {}).items()
            if kind == "steps"
            for name in self._names(layout)
            if name in LOSSES
        ]
        if not there:
            return None
        whose = min(one[:4] for one in there)
        *_, name, frame = max((one for one in there if one[:4] == whose), key=lambda one: one[-1])
        rows = self._all("SELECT layout, data FROM frames WHERE id = ?", frame)
        if not rows:  # deleted meanwhile
            return None
        ((layout, data),) = rows
        names = self._names(layout)
        return float(self._table(data, names)[-1, 1 + names.index(name)])

    # Steps.

    def sources(self, run: int) -> list[str]:
        """The sources of the values recorded in a run, in order of appearance.

        "" is the only clipper of a run, and values that the user logs without a source.
        """
        self._look()
        return list(
            dict.fromkeys(source for kind, source, *_ in self._columns.get(run, ()) if kind == "steps")
        )

    def clippers(self, run: int, *, weights: bool = True) -> list[str]:
        """The `sources` that are clippers: they have recorded a norm.

        Args:
            run: number of the run.
            weights: include clippers of weights, which record the share of weights at the bound.
        """
        names = {source: self.names(run, source) for source in self.sources(run)}
        return [one for one, own in names.items() if NORM in own and (weights or AT_BOUND not in own)]

    def names(self, run: int, source: str = "", *, rank: int | None = None) -> list[str]:
        """The names of the series recorded for a source of a run, in order of appearance.

        Args:
            run, source: as for `series`.
            rank: rank of the process; None for all.
        """
        return self._known(run, "steps", source, rank)

    def parameters(self, run: int, source: str = "", *, rank: int | None = None) -> list[str]:
        """The parameters of a source whose norms were recorded; arguments as for `names`."""
        return self._known(run, "layers", source, rank)

    def series(
        self, run: int, names: Iterable[str], source: str = "", *, rank: int | None = None, after: int = 0
    ) -> "Found":
        """Some series of a run.

        Args:
            run: number of the run.
            names: names of the series, such as ``"clipwise/norm"``; unknown ones are ignored.
            source: the source, if several clippers were recorded.
            rank: rank of the process; None for the lowest that recorded something.
            after: only what was written after this frame (`Found.last` of an earlier call).

        Returns:
            A `Found`.
        """
        wanted = list(dict.fromkeys(names))
        steps: dict[str, list[Any]] = {name: [] for name in wanted}
        values: dict[str, list[Any]] = {name: [] for name in wanted}
        last = after
        for frame, rows in self._frames(run, "steps", source, rank, after):
            last = frame
            for name in wanted:
                if name in rows.names:
                    steps[name].append(rows.data[:, 0])
                    values[name].append(rows.data[:, 1 + rows.names.index(name)])
        there = {name: _in_order(steps[name], values[name]) for name in wanted if steps[name]}
        return Found(there, last)

    def layers(self, run: int, source: str = "", *, rank: int | None = None, after: int = 0) -> "FoundLayers":
        """The norms of the parameters' gradients over a run.

        Args:
            run, source, rank: as for `series`.
            after: only what was written after this frame (`FoundLayers.last` of an earlier call).

        Returns:
            A `FoundLayers`.
        """
        frames = list(self._frames(run, "layers", source, rank, after))
        names = tuple(dict.fromkeys(name for _, rows in frames for name in rows.names))
        if not frames:
            nothing = np.zeros((0, 0))
            return FoundLayers(np.zeros(0, dtype=np.int64), (), nothing, nothing.astype(bool), after)
        place = {name: i for i, name in enumerate(names)}
        steps = np.concatenate([rows.data[:, 0] for _, rows in frames]).astype(np.int64)
        norms, absent = np.full((len(steps), len(names)), np.nan), np.ones((len(steps), len(names)), bool)
        end = 0
        for _, rows in frames:
            start, end = end, end + len(rows.data)
            where = [place[name] for name in rows.names]
            norms[start:end, where], absent[start:end, where] = rows.data[:, 1:], False
        order = np.argsort(steps, kind="stable")
        return FoundLayers(steps[order], names, norms[order], absent[order], frames[-1][0])

    def first_layers(self, run: int, source: str = "") -> tuple[int, dict[str, float]] | None:
        """The first step with recorded norms of the parameters' gradients, and these norms by name.

        Args:
            run, source: as for `series`.
        """
        for _, rows in self._frames(run, "layers", source, None, 0):
            step, *norms = rows.data[int(np.argmin(rows.data[:, 0]))].tolist()
            return int(step), dict(zip(rows.names, norms, strict=True))
        return None

    def moments(self, run: int, rank: int | None = None) -> Iterator[Moment]:
        """The steps of a run in order, each with all that is known about it.

        A step that was recorded twice, as after resuming from a checkpoint, comes twice. Memory is bounded: a
        long run is read in parts.

        Args:
            run, rank: as for `series`.
        """
        rank = self._lowest(run) if rank is None else rank
        waiting: list[tuple[int, Rows]] = []
        count, enough = 0, AT_ONCE
        for frame, first, kind, source, layout in self._rows(
            "SELECT id, first_step, kind, source, layout FROM frames WHERE run = ? AND rank = ?"
            " ORDER BY first_step, id",
            run,
            rank,
        ):
            if count >= enough:  # no frame to come goes further back
                yield from moments_of(_before(first, waiting), rank)
                count = sum(len(rows.data) for _, rows in waiting)
                enough = max(AT_ONCE, 2 * count)
            names = self._names(layout)
            ((data,),) = self._all("SELECT data FROM frames WHERE id = ?", frame)
            waiting.append((frame, Rows(kind, names, self._table(data, names), source)))
            count += len(waiting[-1][1].data)
        yield from moments_of(_before(None, waiting), rank)

    # Alerts, and news.

    def alerts(self, run: int) -> list[Alert]:
        """The alerts of a run, in the order in which they were raised."""
        rows = self._all(
            "SELECT rule, level, step, seen, why, advice, rank, time, source FROM alerts"
            " WHERE run = ? ORDER BY id",
            run,
        )
        return [Alert(*row) for row in rows]


class Found(dict[str, Series]):
    """Series by name.

    Attributes:
        last: the last frame that was read, for the next call.
    """

    def __init__(self, series: Mapping[str, Series], last: int) -> None:
        super().__init__(series)
        self.last = last


@dataclass(frozen=True)
class FoundLayers(Layers):
    """Norms of layers.

    Attributes:
        last: the last frame that was read, for the next call.
    """

    last: int


def _before(step: int | None, waiting: list[tuple[int, Rows]]) -> list[Rows]:
    """Take out the rows of the steps before one, in the order in which they were written."""
    taken: list[tuple[int, Rows]] = []
    left: list[tuple[int, Rows]] = []
    for frame, rows in waiting:
        early = np.ones(len(rows.data), bool) if step is None else rows.data[:, 0] < step
        for which, some in ((early, taken), (~early, left)):
            if which.any():
                some.append((frame, Rows(rows.kind, rows.names, rows.data[which], rows.source)))
    waiting[:] = left
    return [rows for _, rows in sorted(taken, key=lambda one: one[0])]


def _in_order(steps: list[Any], values: list[Any]) -> Series:
    """Rows of other columns, such as those of steps that were left out, lie in frames of their own."""
    found = Series(np.concatenate(steps).astype(np.int64), np.concatenate(values))
    if (found.steps[1:] >= found.steps[:-1]).all():
        return found
    order = np.argsort(found.steps, kind="stable")
    return Series(found.steps[order], found.values[order])
