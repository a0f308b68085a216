"""One row: a peer's call, ours, and where there is one ours with a threshold that learns, turn by turn."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.timing import Turn, clock_for, interleaved, paired

__all__ = ["EXTRA", "SLOWER", "Contest", "Effort", "Row", "run"]

SLOWER = 1.05
"""What a plain clip may take, over the peer's time."""
EXTRA = 50e-6
"""Seconds that a percentile threshold may take on top of that, a step."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Effort:
    """How long a row is measured."""

    seconds: float = 4.0
    least: int = 9
    warm: int = 2


@dataclass(frozen=True)
class Contest:
    """What is compared. Each call takes ``steps`` steps, and returns when they are done.

    Attributes:
        where, case, method: what stands in the table.
        peer, ours: one call each.
        learning: ours with a percentile in the place of the number.
        steps: steps that a call takes.
    """

    where: str
    case: str
    method: str
    peer: Call
    ours: Call
    learning: Call | None = None
    steps: int = 1


@dataclass(frozen=True)
class Row:
    """Seconds of a step (medians), ours / peer with its quartiles, and what a percentile adds, in seconds."""

    where: str
    case: str
    method: str
    peer: float
    ours: float
    ratio: float
    low: float
    high: float
    extra: float | None
    rounds: int

    @property
    def missed(self) -> list[str]:
        """What is not reached, in words."""
        found = ["ratio"] if self.ratio > SLOWER else []
        return found + (["percentile"] if self.extra is not None and self.extra > EXTRA else [])


def run(contest: Contest, effort: Effort) -> Row:
    """Measure one row: all calls in turn, compared within each round."""
    import torch

    calls = [contest.peer, contest.ours, *([contest.learning] if contest.learning else [])]
    found = interleaved(
        [Turn(call) for call in calls],
        clock_for(torch.device("cpu")),
        seconds=effort.seconds,
        least=effort.least,
        most=100_000,
        warm=effort.warm,
    )
    seconds = found / contest.steps
    times = paired(seconds[:, 1], seconds[:, 0])  # ours / peer
    extra = float(np.median(seconds[:, 2] - seconds[:, 1])) if contest.learning else None
    return Row(
        contest.where,
        contest.case,
        contest.method,
        peer=times.ours,
        ours=times.peer,
        ratio=times.ratio,
        low=times.low,
        high=times.high,
        extra=extra,
        rounds=len(found),
    )
