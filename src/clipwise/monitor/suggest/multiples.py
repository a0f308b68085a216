"""Whether the gradients of a run are a whole multiple of those of another: a sum in place of a mean."""

import numpy as np

from clipwise.monitor.store import Run, Store
from clipwise.wording import printable

__all__ = ["multiple_of_another"]

MOST, RUNS = 4096, 100
"""The largest multiple that is looked for, and in how many other runs, the newest ones."""

_CLOSE = 1e-3


def multiple_of_another(store: Store, run: Run, source: str) -> str | None:
    """In words, another run whose first gradients, parameter by parameter, are these times a whole number.

    Runs of one seed that differ in the number of ranks or micro-batches have the same first gradient, unless
    one sums what the other averages. Only parameters that all have the same ratio count: that the norms of
    two runs as a whole happen to have one is no sign.
    """
    own = store.first_layers(run.id, source)
    if own is None:
        return None
    for other in sorted(store.runs(), key=lambda one: -one.id)[:RUNS]:
        theirs = store.first_layers(other.id, source) if other.id != run.id else None
        if theirs is None or theirs[0] != own[0] or theirs[1].keys() != own[1].keys():
            continue
        ratio = _ratio([own[1][name] for name in own[1]], [theirs[1][name] for name in own[1]])
        if ratio is not None:
            return _said(own[0], ratio, other)
    return None


def _ratio(ours: list[float], theirs: list[float]) -> float | None:
    """The whole number, or one over it, that all of these norms differ by; None where they do not."""
    a, b = np.asarray(ours), np.asarray(theirs)
    if not (np.isfinite(a).all() and np.isfinite(b).all()) or ((a > 0) != (b > 0)).any():
        return None
    a, b = a[a > 0], b[b > 0]
    if len(a) < 2:
        return None
    ratios = a / b
    found = float(np.median(ratios))
    whole = round(max(found, 1.0 / found))
    exact = float(whole) if found > 1 else 1.0 / whole
    if not 2 <= whole <= MOST or (np.abs(ratios / exact - 1.0) > _CLOSE).any():
        return None
    return exact


def _said(step: int, ratio: float, other: Run) -> str:
    whole = round(max(ratio, 1.0 / ratio))
    times = f"{whole} times" if ratio > 1 else f"1/{whole} of"
    name = printable(other.name)
    return (
        f"At step {step:,} its gradients are exactly {times} those of run {name!r}, parameter by parameter,"
        f" as a sum over {whole} ranks or micro-batches is to their mean: the same threshold means something"
        f" else in the two runs, by a factor of {whole}."
    )
