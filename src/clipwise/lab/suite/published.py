"""Published numbers beside ours."""

from collections.abc import Sequence
from dataclasses import dataclass

from clipwise.lab.suite.standings import Board

__all__ = ["Comparison", "comparisons"]


@dataclass(frozen=True)
class Comparison:
    """One published result.

    Attributes:
        source: who, when, where.
        said: their number.
        ours: what came out here.
        sentence: what that means, or why the number cannot be reached at this size.
    """

    source: str
    said: str
    ours: str
    sentence: str


def comparisons(boards: Sequence[Board]) -> list[Comparison]:
    """Those whose tasks are there."""
    return []
