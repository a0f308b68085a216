"""The verdict on a run and its recommended threshold, from its recorded norms and losses."""

from typing import Any

from clipwise.monitor.store import Run, Store
from clipwise.monitor.suggest import suggest_run
from clipwise.monitor.suggest.condition import divergence

GROWTH = 1.1
"""A run that goes on is judged again when it is longer by this factor: each time all of it is read."""
KEPT = 64


class Advice:
    """Caches the verdicts of runs. `suggestion` is to be used by one thread at a time."""

    def __init__(self) -> None:
        self._broken: dict[int, tuple[int, str | None]] = {}
        self._said: dict[tuple[int, str], tuple[int, dict[str, Any] | None]] = {}

    def clear(self) -> None:
        self._broken.clear()
        self._said.clear()

    def broken(self, store: Store, run: Run) -> str | None:
        """Where and how a run broke down, in a sentence; None if it did not."""
        known = self._broken.get(run.id)
        if known is None or _is_old(known[0], run):
            known = self._broken[run.id] = run.steps, divergence(store, run.id)
        return known[1]

    def known(self, run: int) -> str | None:
        """The same if it was computed before."""
        return self._broken.get(run, (0, None))[1]

    def suggestion(self, store: Store, run: Run, source: str) -> dict[str, Any] | None:
        """The recommendation of `clipwise suggest` for a source; None if it has no gradient norms."""
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
