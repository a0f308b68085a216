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

    >>> import clipwise, os, tempfile
    >>> from clipwise.monitor.rules import LossNonfinite
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = os.path.join(folder.name, "runs.db")
    >>> with clipwise.Monitor(path, rules=[]) as monitor:
    ...     monitor.log(step=1, loss=float("nan"))
    >>> with clipwise.monitor.Store(path) as store:
    ...     [alert.seen for alert in replay([LossNonfinite()], store, store.run().id)]
    ['The loss is NaN at step 1.']
    """
    engine = Engine(rules)
    alerts = [alert for moment in store.moments(run, rank) for alert in engine.see(moment)]
    return alerts + engine.close()
