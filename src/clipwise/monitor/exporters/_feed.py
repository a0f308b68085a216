"""A run that was recorded, fed to an exporter as if it went on now."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clipwise.errors import StoreError
from clipwise.monitor.exporters._base import Exporter
from clipwise.monitor.store import Layers, Rows, Run, Series, Store

__all__ = ["Fed", "feed"]

AT_ONCE = 2000
"""Steps that are handed over in one go: all rows of a step come together."""


@dataclass(frozen=True)
class Fed:
    """What was exported.

    Attributes:
        run: the run.
        place: where to look for it, for people.
        steps, series, layers, alerts: how many of each.
    """

    run: Run
    place: str
    steps: int
    series: int
    layers: int
    alerts: int


def feed(store: Store, run: Run | int | str | None, exporter: Exporter, place: str = "") -> Fed:
    """Export a run with any exporter: the process of the lowest rank, all series, layers and alerts.

    Args:
        store: the recording.
        run: which; its number, its name, or None for the newest.
        exporter: what takes it.
        place: where it goes, for people; an exporter's own attribute ``place`` unless given.

    Raises:
        StoreError: there is no such run, or nothing was recorded of it.
    """
    found = run if isinstance(run, Run) else store.run(run)
    series = store.series(found.id, store.names(found.id))
    layers = store.layers(found.id)
    alerts = store.alerts(found.id)
    tables = [*_steps(series, found.started), *_layers(layers)]
    if not tables and not alerts:
        raise StoreError(f"nothing was recorded of run {found.name!r} (number {found.id}) yet")
    named = {"clip": found.clip, "command": found.command, "note": found.note or None}
    facts = dict(found.facts) | {name: value for name, value in named.items() if value is not None}
    exporter.begin(found.name, facts, found.started)
    status = "failed"
    try:
        for rows in _portions(tables):
            exporter.write(rows, [])
        exporter.write([], alerts)
        status = found.status
    finally:
        exporter.close(status)
    numbers = np.unique(np.concatenate([table.data[:, 0] for table in tables])) if tables else ()
    return Fed(
        found,
        place or str(getattr(exporter, "place", "")),
        len(numbers),
        len(set(series) - {"time"}),
        len(layers.names),
        len(alerts),
    )


def _steps(series: dict[str, Series], started: float) -> list[Rows]:
    """Series that were recorded at the same steps are one table; each row has its step's time."""
    times = series.get("time")
    together: dict[bytes, list[str]] = {}
    for name, one in series.items():
        if name != "time":
            together.setdefault(one.steps.tobytes(), []).append(name)
    tables = []
    for names in together.values():
        steps = series[names[0]].steps
        if times is None:
            when = np.full(len(steps), started)
        else:
            place = np.searchsorted(times.steps, steps).clip(max=len(times.steps) - 1)
            when = times.values[place]
        columns = [steps.astype(np.float64), when, *(series[name].values for name in names)]
        tables.append(Rows("steps", ("time", *names), np.column_stack(columns)))
    return tables


def _layers(layers: Layers) -> list[Rows]:
    """Steps at which the same parameters were recorded are one table."""
    if not len(layers.steps):
        return []
    patterns, which = np.unique(layers.absent, axis=0, return_inverse=True)
    tables = []
    for number, absent in enumerate(patterns):
        here = which.reshape(-1) == number
        names = tuple(np.asarray(layers.names, dtype=object)[~absent].tolist())
        data = np.column_stack([layers.steps[here].astype(np.float64), layers.norms[here][:, ~absent]])
        tables.append(Rows("layers", names, data))
    return tables


def _portions(tables: list[Rows]) -> Iterator[list[Rows]]:
    if not tables:
        return
    steps = np.unique(np.concatenate([table.data[:, 0] for table in tables]))
    for first in range(0, len(steps), AT_ONCE):
        low, high = steps[first], steps[min(first + AT_ONCE, len(steps)) - 1]
        parts = []
        for table in tables:  # rows are in the order of their steps
            start, stop = np.searchsorted(table.data[:, 0], [low, np.nextafter(high, np.inf)])
            if stop > start:
                parts.append(Rows(table.kind, table.names, table.data[start:stop]))
        yield parts
