"""Applies rules to a recorded run."""

from collections.abc import Sequence

from clipwise.monitor.rules._base import Rule
from clipwise.monitor.rules.engine import Engine
from clipwise.monitor.store import Alert, Store


def replay(rules: Sequence[Rule], store: Store, run: int, rank: int | None = None) -> list[Alert]:
    """The alerts that some rules raise for a recorded run; nothing is written.

    Args:
        rules: the rules; each starts with a new state.
        store: the recording.
        run: number of the run.
        rank: rank of the process; None for the lowest rank that recorded something.
    """
    engine = Engine(rules)
    alerts = [alert for moment in store.moments(run, rank) for alert in engine.see(moment)]
    return alerts + engine.close()
