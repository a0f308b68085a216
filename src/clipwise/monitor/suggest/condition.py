"""Whether a recorded run ended well: one judgement, for its status and for recommendations."""

import numpy as np

from clipwise.monitor.store import AT_BOUND, LOSSES, NORM, Floats, Series, Store
from clipwise.monitor.suggest import _say as say
from clipwise.monitor.suggest._breakdown import Breakdown, breakdown
from clipwise.monitor.suggest._given import Given, Positions
from clipwise.monitor.suggest.divergence import diverged
from clipwise.monitor.wording import of

__all__ = ["divergence", "losses_of", "places_of"]


def divergence(store: Store, run: int) -> str | None:
    """Where and how a run broke down for good, in a sentence; None if it did not.

    A run broke down if its losses or norms end in NaN or Inf, or if the loss stayed above ten times the first
    one until the end. A loss that is merely higher than before is no divergence, since it may be intended.
    """
    found: list[tuple[int, str]] = []
    for source in store.sources(run):
        given = _given(store, run, source)
        broken = None if given is None else breakdown(given)
        if given is None or broken is None or not _is_for_good(given, broken):
            continue
        said = f"The run{of(source)} broke down at step {given.step(broken.at):,}: {say.SIGNS[broken.sign]}."
        found.append((given.step(broken.at), said))
    return min(found)[1] if found else None


def losses_of(store: Store, run: int, source: str) -> Series | None:
    """The training loss of a source, otherwise the loss without a source; None if none was recorded."""
    for one in dict.fromkeys((source, "")):
        names = store.names(run, one)
        name = next((name for name in LOSSES if name in names), None)
        if name is not None:
            return store.series(run, [name], one).get(name)
    return None


def places_of(norms: Series, losses: Series) -> Positions:
    """The norm that each loss belongs to: that of its step, otherwise the next one."""
    return np.minimum(np.searchsorted(norms.steps, losses.steps), len(norms.steps) - 1).astype(np.int64)


def _given(store: Store, run: int, source: str) -> Given | None:
    names = store.names(run, source)
    if AT_BOUND in names:
        return None  # norms of weights
    losses = losses_of(store, run, source)
    norms = store.series(run, [NORM], source).get(NORM)
    if norms is None and losses is not None:
        norms = Series(losses.steps, np.ones(len(losses.steps)))
    if norms is None or not len(norms.steps):
        return None
    if losses is None:
        return Given(norms.values, np.zeros(0), np.zeros(0, dtype=np.int64), steps=norms.steps)
    return Given(norms.values, losses.values, places_of(norms, losses), steps=norms.steps)


def _is_for_good(given: Given, broken: Breakdown) -> bool:
    if broken.sign == "nonfinite":
        return True
    return len(given.losses) > 0 and _blew_up(given.losses)


def _blew_up(losses: Floats) -> bool:
    return diverged(losses) is not None
