"""Exports a run that was recorded before."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from clipwise.errors import StoreError
from clipwise.monitor.exporters._base import is_stored
from clipwise.monitor.store import Moment, Run, Store, joined

AT_ONCE = 2000
"""Moments that are handed over in one go: all of a step come together."""


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes:
        run: the run.
        place: where to look for it, for people.
        steps, series, parameters, alerts: how many there are of each.
    """

    run: Run
    place: str
    steps: int
    series: int
    parameters: int
    alerts: int


def export(
    store: Store,
    run: Run | int | str | None,
    exporter: Any,
    *,
    progress: Callable[[float], object] = lambda share: None,
) -> Exported:
    """Export a recorded run: all values, norms of parameters and alerts, of the process with the lowest rank.

    Memory is bounded: a long run is read in parts.

    Args:
        store: the recording.
        run: its number, its name, or None for the newest run.
        exporter: an `Exporter`.
        progress: called with the share that has been exported, from 0 to 1.

    Returns:
        An `Exported`.

    Raises:
        StoreError: the run does not exist, or nothing was recorded.
        ArgumentError: something exists already that the exporter must not replace.

    >>> import clipwise, os, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "runs.db")
    >>> with clipwise.Monitor(path, run="lstm") as monitor:
    ...     monitor.log(step=1, loss=0.7)
    >>> with clipwise.monitor.Store(path) as store:
    ...     done = export(store, "lstm", clipwise.monitor.exporters.CSV(folder.name))
    >>> done.steps, os.path.basename(done.place)
    (1, 'lstm.csv')
    """
    found = run if isinstance(run, Run) else store.run(run)
    rank = store.rank(found.id)
    names = _joined(store, found.id, lambda source: store.names(found.id, source, rank=rank))
    parameters = _joined(store, found.id, lambda source: store.parameters(found.id, source, rank=rank))
    alerts = store.alerts(found.id)
    if not (names or parameters or alerts):
        raise StoreError(f"nothing was recorded of run {found.name!r} (number {found.id}) yet")
    said = {"clip": found.clip, "command": found.command, "note": found.note or None}
    facts = dict(found.facts) | {name: value for name, value in said.items() if value is not None}
    exporter.begin(found.name, facts, found.started)
    steps = 0
    try:
        if is_stored(exporter):
            exporter.expect(names, parameters)
        for moments in _portions(store.moments(found.id, rank)):
            exporter.write(moments, [])
            steps += len({moment.step for moment in moments})
            progress(moments[-1].step / max(found.steps, 1))
        exporter.write([], alerts)
    except BaseException:
        getattr(exporter, "abandon", lambda: exporter.close("failed"))()
        raise
    exporter.close(found.status)
    place = str(getattr(exporter, "place", "") or "")
    return Exported(found, place, steps, len({*names} - {"time"}), len(parameters), len(alerts))


def _joined(store: Store, run: int, of: Callable[[str], list[str]]) -> list[str]:
    """Names of all sources, in the order of their coming; the time of a step is one for all."""
    found = [(source, name) for source in store.sources(run) for name in of(source)]
    return list(dict.fromkeys(name if name == "time" else joined(source, name) for source, name in found))


def _portions(moments: Iterable[Moment]) -> Iterator[list[Moment]]:
    part: list[Moment] = []
    for moment in moments:
        if len(part) >= AT_ONCE and moment.step != part[-1].step:
            yield part
            part = []
        part.append(moment)
    if part:
        yield part
