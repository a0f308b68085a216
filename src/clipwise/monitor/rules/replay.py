"""Rules over a run that was recorded before."""

from collections.abc import Sequence

from clipwise.monitor.rules._base import Rule
from clipwise.monitor.rules.engine import Engine
from clipwise.monitor.store import Alert, Store


def replay(rules: Sequence[Rule], store: Store, run: int, rank: int | None = None) -> list[Alert]:
    """What some rules say about a recorded run; nothing is written.

    Args:
        rules: each begins anew.
        store: the recording.
        run: the number of the run.
        rank: whose steps; None: of the process with the lowest rank that recorded something.
    """
    engine = Engine(rules)
    alerts = [alert for moment in store.moments(run, rank) for alert in engine.see(moment)]
    return alerts + engine.close()
