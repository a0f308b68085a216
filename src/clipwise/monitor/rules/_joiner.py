"""What belongs together of a step with NaN or Inf: its values, and the norms of its parameters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from clipwise.monitor.store import Moment

NONFINITE = "clipwise/nonfinite"
EARLY = 100
"""Steps whose parameters' norms are kept, should they come before the values."""


class StepJoiner:
    """Holds back a step with NaN or Inf until the norms of its parameters are there, in whichever order.

    Where they have not come with the next step, they are not waited for.
    """

    def __init__(self) -> None:
        self._held: Moment | None = None
        self._early: dict[int, Mapping[str, float]] = {}

    def add(self, moment: Moment) -> Sequence[Moment]:
        """The moments that may be judged now."""
        held, count = self._held, moment.values.get(NONFINITE)
        if count is None and moment.layers:
            if held is not None and held.step == moment.step:
                self._held = None
                return [replace(held, layers=moment.layers)]
            if moment.worst is not None:
                self._early[moment.step] = moment.layers
                if len(self._early) > EARLY:
                    del self._early[next(iter(self._early))]
                return []
        bad = count is not None and count > 0
        if held is None and not bad:
            return (moment,)
        before: list[Moment] = []
        if held is not None and held.step != moment.step:
            self._held = None
            before.append(held)
        if not bad or moment.layers:
            return [*before, moment]
        layers = self._early.pop(moment.step, None)
        if layers is not None:
            return [*before, replace(moment, layers=layers)]
        self._held = moment
        return before

    def rest(self) -> Sequence[Moment]:
        """What was held back to the end."""
        held, self._held = self._held, None
        return () if held is None else (held,)
