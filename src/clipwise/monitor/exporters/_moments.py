"""Rows as tools take them: one step after the other, all that is known of a step at once."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from clipwise.monitor.store import Rows

__all__ = ["Clock", "Moment"]


@dataclass(slots=True)
class Moment:
    """One step.

    Attributes:
        step: its number.
        time: seconds since the epoch.
        values: by name; the last where there are several of a name.
        layers: the norms of parameters' gradients.
    """

    step: int
    time: float
    values: dict[str, float] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)


class Clock:
    """Turns rows into moments, and remembers the time for rows that come without one."""

    def __init__(self, started: float | None = None) -> None:
        self._last = time.time() if started is None else started

    def moments(self, rows: Sequence[Rows]) -> list[Moment]:
        """The steps in these rows, ascending; the time of a step is that of its first row."""
        found: dict[int, Moment] = {}
        timed: set[int] = set()
        for some in rows:
            for number, *values in some.data.tolist():
                step = int(number)
                moment = found.setdefault(step, Moment(step, 0.0))
                named = dict(zip(some.names, values, strict=True))
                if some.kind == "layers":
                    moment.layers |= named
                    continue
                when = named.pop("time", None)
                if when is not None and step not in timed:
                    moment.time = when
                    timed.add(step)
                moment.values |= named
        ordered = [found[step] for step in sorted(found)]
        for moment in ordered:
            if moment.step in timed:
                self._last = moment.time
            else:
                moment.time = self._last
        return ordered
