"""What a run is judged to be, and which threshold it asks for, by the norms and losses that it recorded."""

from typing import Any

from clipwise.monitor.store import Run, Store
from clipwise.monitor.suggest import suggest_run
from clipwise.monitor.suggest.condition import divergence

GROWTH = 1.1
"""A run that goes on is judged again when it is longer by this factor: each time all of it is read."""
KEPT = 64


class Advice:
    """Judgements of runs, each made once; `suggestion` is not for several threads at once."""

    def __init__(self) -> None:
        self._broken: dict[int, tuple[int, str | None]] = {}
        self._said: dict[tuple[int, str], tuple[int, dict[str, Any] | None]] = {}

    def clear(self) -> None:
        self._broken.clear()
        self._said.clear()

    def broken(self, store: Store, run: Run) -> str | None:
        """Where and how a run broke down, in a sentence, as it is judged everywhere; None: it did not."""
        known = self._broken.get(run.id)
        if known is None or _is_old(known[0], run):
            known = self._broken[run.id] = run.steps, divergence(store, run.id)
        return known[1]

    def known(self, run: int) -> str | None:
        """The same where it was asked for already."""
        return self._broken.get(run, (0, None))[1]

    def suggestion(self, store: Store, run: Run, source: str) -> dict[str, Any] | None:
        """What `clipwise suggest` says of the norms of a source; None where it has none of gradients."""
        if source not in store.clippers(run.id, weights=False):
            return None
        known = self._said.get((run.id, source))
        if known is None or _is_old(known[0], run):
            found = suggest_run(store, run, source=source).to_dict()
            known = self._said[run.id, source] = run.steps, found
            while len(self._said) > KEPT:
                del self._said[next(iter(self._said))]
        return known[1]


def _is_old(then: int, run: Run) -> bool:
    goes_on = run.status == "running"
    return run.steps > GROWTH * then or run.steps < then if goes_on else run.steps != then
