"""What held the threshold of a recorded run, in a sentence."""

import numpy as np

from clipwise.monitor.store import HELD, Store
from clipwise.monitor.wording import percent

WORDS = {
    "start": "the start",
    "warm-up": "the warm-up",
    "length": "the distance covered",
    "history": "earlier norms",
    "loss": "the loss",
    "floor": "its floor",
    "ceiling": "its ceiling",
    "weights": "the weights",
}
"""Reasons of clipwise's policies in words; other reasons are written as they are."""


def what_held(store: Store, run: int, source: str) -> str | None:
    """The reasons that determined the threshold of a run, each with its share of the steps.

    Args:
        store: the recording.
        run: number of the run.
        source: the clipper whose threshold it is.

    Returns:
        One sentence; None if the policy has only one possible reason, or none was recorded. Steps that were
        left out had no threshold, and do not count.
    """
    names = [name for name in store.names(run, source) if name.startswith(HELD)]
    series = store.series(run, names, source)
    taken = np.concatenate(
        [one.steps[one.values > 0] for one in series.values()] or [np.zeros(0, dtype=np.int64)]
    )
    values = {name: one.values[np.isin(one.steps, taken)] for name, one in series.items()}
    shares = {name.removeprefix(HELD): float(np.nanmean(v)) for name, v in values.items() if len(v)}
    often = sorted((share, reason) for reason, share in shares.items() if share > 0)[::-1]
    if not often:
        return None
    whole = all(np.isin(found, (0.0, 1.0)).all() for found in values.values())
    parts = [f"by {WORDS.get(reason, reason)} in {percent(share)}" for share, reason in often]
    parts[0] += " of the steps" if whole else " of the groups, averaged over all steps"
    return f"The threshold was determined {', '.join(parts)}."
