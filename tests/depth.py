"""How much is tested: ``make test`` leaves out what takes long and tells little, ``make test-all`` nothing.

The long way is chosen by ``CLIPWISE_TESTS=all``, which reaches the processes that tests start, too.
"""

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import pytest

__all__ = ["LONG", "THOROUGH", "brief", "each_value", "pairwise", "thorough"]

Case = TypeVar("Case")

THOROUGH = os.environ.get("CLIPWISE_TESTS") == "all"

LONG = "long; it runs with make test-all"

thorough = pytest.mark.skipif(not THOROUGH, reason=LONG)


def brief(every: Iterable[Case], *some: Case) -> list[Case]:
    """All cases, or only some of them."""
    every = list(every)
    assert all(case in every for case in some)
    return every if THOROUGH else list(some)


def pairwise(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All combinations of the axes, or so few that any two values of two axes still meet in one."""
    return _covering(2, axes)


def each_value(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """All combinations of the axes, or so few that any value of any axis still is in one."""
    return _covering(1, axes)


def _covering(strength: int, axes: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """The greedy way: always the case with most in it that was in none before."""

    def covered(case: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(itertools.combinations(enumerate(case), strength))

    every = list(itertools.product(*(range(len(axis)) for axis in axes)))
    left = set().union(*map(covered, every))
    chosen = every if THOROUGH else []
    while left and not THOROUGH:
        chosen.append(max(every, key=lambda case: len(left & covered(case))))
        left -= covered(chosen[-1])
    return [tuple(axis[place] for axis, place in zip(axes, case, strict=True)) for case in chosen]
