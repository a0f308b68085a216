"""How much is tested: ``make test`` leaves out what takes long and tells little, ``make test-all`` nothing.

The long way is chosen by ``CLIPWISE_TESTS=all``, which reaches the processes that tests start, too.
"""

import os
from collections.abc import Iterable
from typing import TypeVar

import pytest

__all__ = ["THOROUGH", "brief", "thorough"]

Case = TypeVar("Case")

THOROUGH = os.environ.get("CLIPWISE_TESTS") == "all"

thorough = pytest.mark.skipif(not THOROUGH, reason="long; it runs with make test-all")


def brief(every: Iterable[Case], *some: Case) -> list[Case]:
    """All cases, or only some of them."""
    every = list(every)
    assert all(case in every for case in some)
    return every if THOROUGH else list(some)
