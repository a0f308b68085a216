"""Rules over a run that was recorded before."""

from collections.abc import Iterator, Sequence

from clipwise.monitor.rules._base import Rule
from clipwise.monitor.rules.engine import Engine
from clipwise.monitor.rules.moment import Moment
from clipwise.monitor.store.reader import Store
from clipwise.monitor.store.records import Alert

__all__ = ["moments", "replay"]


def replay(rules: Sequence[Rule], store: Store, run: int, rank: int | None = None) -> list[Alert]:
    """What some rules say about a recorded run; nothing is written.

    Args:
        rules: each begins anew.
        store: the recording.
        run: the number of the run.
        rank: whose steps; None: of the process with the lowest rank that recorded something.
    """
    engine = Engine(rules)
    alerts: list[Alert] = []
    for moment in moments(store, run, rank):
        alerts.extend(engine.see(moment))
    return alerts + engine.close()


def moments(store: Store, run: int, rank: int | None = None) -> Iterator[Moment]:
    """The steps of a run in order, each with all that is known of it.

    A step that was recorded twice, as after going back to a checkpoint, is shown twice.
    """
    if rank is None:
        rank = min(store.run(run).ranks, default=0)
    found = store.series(run, store.names(run), rank=rank)
    times = found.pop("time", None)
    clock = {} if times is None else dict(zip(times.steps.tolist(), times.values.tolist(), strict=True))
    rows: dict[tuple[int, int], dict[str, float]] = {}
    for name, series in found.items():
        last, turn = None, 0
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
            turn = turn + 1 if step == last else 0
            last = step
            rows.setdefault((step, turn), {})[name] = value
    layers = store.layers(run, rank)
    norms: dict[tuple[int, int], dict[str, float]] = {}
    last, turn = None, 0
    for i, step in enumerate(layers.steps.tolist()):
        turn = turn + 1 if step == last else 0
        last = step
        there = ~layers.absent[i]
        norms[step, turn] = {
            name: float(norm)
            for name, norm, known in zip(layers.names, layers.norms[i], there, strict=True)
            if known
        }
    for key in sorted(rows.keys() | norms.keys()):
        step = key[0]
        yield Moment(step, rows.get(key, {}), norms.get(key, {}), rank, clock.get(step, 0.0))
