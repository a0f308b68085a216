"""Moments as tools take them: one a step, with a time, and names that say whose a value is."""

import time
from collections.abc import Iterable
from dataclasses import replace

from clipwise.monitor.store import Moment, steps_of


class Clock:
    """Puts the moments of a step together, and remembers the time for what comes without one."""

    def __init__(self, started: float | None = None) -> None:
        self._last = time.time() if started is None else started

    def steps(self, moments: Iterable[Moment]) -> list[Moment]:
        """One moment a step, ascending; the time of a step is that of what was recorded first of it."""
        found = []
        for step in steps_of(moments):
            self._last = step.time or self._last
            found.append(step if step.time else replace(step, time=self._last))
        return found


def named(step: Moment, prefix: str = "clipwise/norm/") -> dict[str, float]:
    """All numbers of a step under one name each: the norm of a parameter as ``clipwise/norm/<parameter>``."""
    return {**step.values, **{f"{prefix}{name}": norm for name, norm in step.layers.items()}}
