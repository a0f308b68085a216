"""The numbers that a suggestion rests on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from clipwise.monitor.robust import SIGMA_PER_MAD
from clipwise.monitor.store import Floats

SLIGHTLY = 1.1
"""What "slightly above the mean" means: so many times the mean."""

NET = 5.0  # medians: what `auto` clips at with Adam
HILL_SHARE, HILL_FROM = 0.05, 200
DRIFT_FROM = 40


@dataclass(frozen=True)
class Statistics:
    """Statistics of the norms of a run.

    Attributes:
        count: number of norms.
        nonfinite, zeros: number of norms that are NaN or Inf, and exactly 0. The rest excludes both.
        mean, median, p90, p95, p99, max: as in numpy; None if no norm is left.
        slightly_above_mean: 1.1 times the mean of the usual norms: those before a breakdown and up to ten
            medians.
        tail: ratio of the 99th percentile to the median, before a breakdown.
        hill: Hill's estimate of the tail exponent from the largest twentieth, before a breakdown. Below 2 the
            variance is infinite. None for fewer than 200 norms.
        drift: ratio of the median of the last quarter to that of the first, before a breakdown; None for
            fewer than 40 norms.
        wander: ratio of the largest to the smallest median of the four quarters.
    """

    count: int
    nonfinite: int
    zeros: int
    mean: float | None = None
    median: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    max: float | None = None
    slightly_above_mean: float | None = None
    tail: float | None = None
    hill: float | None = None
    drift: float | None = None
    wander: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A threshold that could be used.

    Attributes:
        name: where it comes from.
        threshold: the number.
        clipped: number of recorded steps with a finite norm above it.
        share: the same as a share of all steps with a finite norm.
    """

    name: str
    threshold: float
    clipped: int
    share: float


@dataclass(frozen=True)
class Drift:
    """How the level of the norms moved over the run, by the medians of its four quarters.

    Attributes:
        ratio: last over first.
        wander: largest over smallest.
        noise: the factor by which the medians of two quarters may differ by chance (two standard errors).
    """

    ratio: float
    wander: float
    noise: float


def statistics_of(norms: Floats, before: Floats, usual: Floats) -> Statistics:
    """All of them, from all norms, the usable ones before a breakdown, and the usual ones among those."""
    finite = norms[np.isfinite(norms)]
    used = finite[finite > 0]
    made = {"count": len(norms), "nonfinite": len(norms) - len(finite), "zeros": len(finite) - len(used)}
    if not len(used):
        return Statistics(**made)
    p90, p95, p99 = (float(value) for value in np.percentile(used, [90, 95, 99]))
    drift = drift_of(before)
    return Statistics(
        **made,
        mean=_mean(used),
        median=float(np.median(used)),
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(used.max()),
        slightly_above_mean=SLIGHTLY * _mean(usual) if len(usual) else None,
        tail=float(np.percentile(before, 99) / np.median(before)) if len(before) else None,
        hill=_hill(before),
        drift=drift.ratio if drift else None,
        wander=drift.wander if drift else None,
    )


def candidates_of(
    norms: Floats, usual: Floats, first: tuple[str, float] | None = None
) -> tuple[Candidate, ...]:
    """Thresholds from the usual norms, and what each would have clipped of all the recorded steps."""
    finite = norms[np.isfinite(norms)]
    found: list[tuple[str, float]] = [] if first is None else [first]
    if len(usual):
        p90, p95, p99 = (float(value) for value in np.percentile(usual, [90, 95, 99]))
        found += [
            ("slightly above the mean", SLIGHTLY * _mean(usual)),
            ("90th percentile", p90),
            ("95th percentile", p95),
            ("99th percentile", p99),
            ("5 medians", NET * float(np.median(usual))),
        ]
    counts = [int(np.count_nonzero(finite > threshold)) for _, threshold in found]
    return tuple(
        Candidate(name, threshold, count, count / len(finite))
        for (name, threshold), count in zip(found, counts, strict=True)
    )


def drift_of(values: Floats) -> Drift | None:
    """None where there are too few to tell."""
    if len(values) < DRIFT_FROM:
        return None
    quarters = np.array_split(np.log(values), 4)
    medians = np.asarray([np.median(quarter) for quarter in quarters])
    deviations = np.concatenate([np.abs(q - m) for q, m in zip(quarters, medians, strict=True)])
    error = 1.25 * SIGMA_PER_MAD * float(np.median(deviations)) / math.sqrt(len(values) / 4)
    return Drift(
        ratio=_exp(float(medians[-1] - medians[0])),
        wander=_exp(float(medians.max() - medians.min())),
        noise=_exp(2 * math.sqrt(2) * error),
    )


def rounded(value: float, digits: int = 2) -> float:
    """To two significant digits, for a threshold is not known better than that.

    >>> rounded(0.23456), rounded(1234.0)
    (0.23, 1200.0)
    """
    return float(f"{value:.{digits - 1}e}")


def share_bounds(count: int, of: int, doubt: float = 0.05) -> tuple[float, float]:
    """What share of further steps is clipped, if ``count`` of ``of`` were: Clopper and Pearson 1934.

    Either end is wrong with a chance of ``doubt`` at most; the steps are taken to be independent.

    >>> low, high = share_bounds(1, 20)
    >>> round(low, 4), round(high, 4)
    (0.0026, 0.2161)
    """

    def at_most(k: int, p: float) -> float:
        return sum(math.comb(of, i) * p**i * (1 - p) ** (of - i) for i in range(k + 1))

    low, high = 0.0, 1.0
    if count > 0:
        low = _root(lambda p: 1 - at_most(count - 1, p) - doubt)
    if count < of:
        high = _root(lambda p: doubt - at_most(count, p))
    return low, high


def rarest(steps: int, doubt: float = 0.05) -> float:
    """How frequent something may still be that did not happen in so many independent steps.

    >>> round(rarest(50), 3)
    0.058
    """
    return float(1 - doubt ** (1 / steps))


def _root(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if rising(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _hill(values: Floats) -> float | None:
    if len(values) < HILL_FROM:
        return None
    count = int(HILL_SHARE * len(values))
    top = np.sort(values)[-count - 1 :]
    mean = float(np.mean(np.log(top[1:]) - np.log(top[0])))
    return 1 / mean if mean > 0 else math.inf


def _mean(values: Floats) -> float:
    """Without overflow."""
    largest = float(values.max())
    return float(np.mean(values / largest)) * largest


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))
