"""Recorders in a forked process, in which no thread takes what is recorded."""

import os
import weakref
from collections import deque
from typing import TYPE_CHECKING

from clipwise.monitor._rows import Item
from clipwise.monitor._warning import say

if TYPE_CHECKING:
    from clipwise.monitor._intake import Intake


class Nowhere(deque[Item]):
    """Where a forked process appends: it is said once that nothing of it is kept."""

    def __init__(self, path: str) -> None:
        super().__init__(maxlen=0)
        self._path, self._said = path, False

    def append(self, item: Item) -> None:
        if not self._said:
            self._said = True
            say(
                f"this process was forked from the one that records into {self._path!r}: what it logs is not"
                " kept; make a Monitor in it"
            )


alive: "weakref.WeakSet[Intake]" = weakref.WeakSet()
"""All of this process."""


def _after_fork() -> None:
    for intake in list(alive):
        intake.queue = Nowhere(intake.path)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
