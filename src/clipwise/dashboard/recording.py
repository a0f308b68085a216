"""The recording as the page queries it: in any state of the file, and from any thread."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipwise.dashboard.advice import Advice
from clipwise.dashboard.columns import Columns, LayerTable
from clipwise.dashboard.distribution import Distribution, distribution
from clipwise.dashboard.heatmap import heat_view
from clipwise.dashboard.opened import Opened
from clipwise.dashboard.sources import logged_of, parts_of, reasons_of
from clipwise.dashboard.views import alert_views, listed_view, run_view, series_view
from clipwise.monitor.store import NORM, PREFIX, Run, Store
from clipwise.monitor.store.plain import plain
from clipwise.monitor.suggest.multiples import Multiples

THRESHOLD = f"{PREFIX}threshold"
FINISHED = "finished"


class Recording:
    """One file that is read while it is being written, replaced, damaged or missing.

    The list of runs is read without waiting for long queries, which are answered one after the other.

    Args:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._advice, self._multiples = Advice(), Multiples()
        self._runs = Opened(self.path, self._forget_runs)
        self._steps = Opened(self.path, self._forget)
        self._columns = Columns()
        self._layers: dict[tuple[int, str, int], LayerTable] = {}
        self._sorted: dict[tuple[object, ...], tuple[int, Distribution]] = {}

    def close(self) -> None:
        self._runs.close()
        self._steps.close()

    def _forget_runs(self) -> None:
        self._advice.clear()
        self._multiples.clear()

    def _forget(self) -> None:
        self._columns.clear()
        self._layers.clear()
        self._sorted.clear()
        self._advice.clear()

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first, with their last loss and number of alerts."""

        def read(store: Store) -> list[dict[str, Any]]:
            found, multiples = [], self._multiples.among(store)
            for one in store.overview():
                if one.loss is not None and not np.isfinite(one.loss) and one.run.status == FINISHED:
                    self._advice.broken(store, one.run)
                found.append(listed_view(one, self._status(one.run), multiples.get(one.run.id)))
            return found

        return self._runs.ask(read)

    def run(self, run: int) -> dict[str, Any]:
        """One run: its facts, its sources (the unnamed one first), logged series and alerts."""

        def read(store: Store) -> dict[str, Any]:
            one = self._one(store, run)
            sources = sorted(store.clippers(run), key=lambda source: source != "")
            names = {source: store.names(run, source) for source in store.sources(run)}
            logged = logged_of(names)
            return run_view(one, self._status(one)) | {
                "command": one.command,
                "note": "\n".join(filter(None, (self._advice.known(run), one.note))),
                "notes": one.notes,
                "facts": plain({key: value for key, value in one.facts.items() if key != "notes"}),
                "sources": sources,
                "reasons": {source: reasons_of(names[source]) for source in sources},
                "parts": {source: parts_of(source, sources) for source in sources},
                "logged": [{"source": source, "name": name} for source, name in logged],
                "alerts": alert_views(store.alerts(run)),
            }

        return self._runs.ask(read)

    def series(
        self,
        runs: Sequence[int],
        wanted: Sequence[tuple[str, str]],
        low: float | None = None,
        high: float | None = None,
        buckets: int = 1000,
        rank: int | None = None,
    ) -> dict[str, Any]:
        """Some series of some runs, thinned; by run, source and name.

        Args:
            runs: numbers of the runs.
            wanted: source and name of each series.
            low, high: the range of steps; None: from the first, to the last.
            buckets: number of parts of a line.
            rank: rank of the process; None: the lowest.
        """
        by_source: dict[str, list[str]] = {}
        for source, name in wanted:
            by_source.setdefault(source, []).append(name)

        def read(store: Store) -> dict[str, Any]:
            there = {run.id for run in store.runs()}
            return {
                str(run): {
                    source: {
                        name: series_view(name, found, low, high, buckets)
                        for name, found in self._columns.read(store, run, names, source, rank).items()
                        if len(found.steps)
                    }
                    for source, names in by_source.items()
                }
                for run in runs
                if run in there
            }

        return self._steps.ask(read)

    def distribution(
        self,
        run: int,
        source: str = "",
        low: float | None = None,
        high: float | None = None,
        rank: int | None = None,
    ) -> dict[str, Any]:
        """The norms of some steps, sorted and counted."""

        def read(store: Store) -> dict[str, Any]:
            sorted_, threshold = self._norms(store, run, source, low, high, rank)
            return sorted_.view(threshold)

        return self._steps.ask(read)

    def clipped(
        self,
        threshold: float,
        run: int,
        source: str = "",
        low: float | None = None,
        high: float | None = None,
        rank: int | None = None,
    ) -> dict[str, Any]:
        """The number of norms above a threshold."""

        def read(store: Store) -> dict[str, Any]:
            sorted_, _ = self._norms(store, run, source, low, high, rank)
            return {"threshold": threshold, "clipped": int(sorted_.clipped(threshold))}

        return self._steps.ask(read)

    def layers(
        self,
        run: int,
        source: str = "",
        low: float | None = None,
        high: float | None = None,
        columns: int = 300,
        rank: int | None = None,
    ) -> dict[str, Any]:
        """The layer norms as a grid of cells."""

        def read(store: Store) -> dict[str, Any]:
            which = run, source, store.rank(run, "layers") if rank is None else rank
            found = self._layers.setdefault(which, LayerTable()).read(store, *which)
            while len(self._layers) > 4:
                del self._layers[next(iter(self._layers))]
            end = float(self._one(store, run).steps) if high is None else high
            return heat_view(found, list(found.names), low, end, columns) | {"end": end}

        return self._steps.ask(read)

    def advice(self, run: int, source: str = "") -> dict[str, Any]:
        """Whether a run broke down, ``"broken"`` in a sentence, and the ``"suggestion"`` from its norms."""

        def read(store: Store) -> dict[str, Any]:
            one = self._one(store, run)
            broken = self._advice.broken(store, one)
            return {
                "broken": broken,
                "status": self._status(one),
                "suggestion": self._advice.suggestion(store, one, source),
            }

        return self._steps.ask(read)

    # Inside.

    def _status(self, run: Run) -> str:
        """Also of a run that was recorded before its writer looked at how it ended."""
        return "diverged" if run.status == FINISHED and self._advice.known(run.id) else run.status

    def _norms(
        self,
        store: Store,
        run: int,
        source: str,
        low: float | None,
        high: float | None,
        rank: int | None,
    ) -> tuple[Distribution, float | None]:
        rank = store.rank(run) if rank is None else rank
        found = self._columns.read(store, run, [NORM, THRESHOLD], source, rank)
        norm, threshold = found[NORM], found[THRESHOLD].values
        low, high = -np.inf if low is None else low, np.inf if high is None else high
        here = slice(np.searchsorted(norm.steps, low, "left"), np.searchsorted(norm.steps, high, "right"))
        key, many = (run, source, low, high, rank), len(norm.steps)
        if self._sorted.get(key, (-1,))[0] != many:
            self._sorted[key] = many, distribution(norm.values[here])
            while len(self._sorted) > 4:
                del self._sorted[next(iter(self._sorted))]
        # Of several parts it is the smallest one, and bounds no norm of the whole.
        known = threshold[np.isfinite(threshold)]
        bounds = len(known) > 0 and not parts_of(source, store.sources(run))
        return self._sorted[key][1], float(known[-1]) if bounds else None

    def _one(self, store: Store, run: int) -> Run:
        found = next((one for one in store.runs() if one.id == run), None)
        if found is None:
            raise LookupError(run)
        return found
