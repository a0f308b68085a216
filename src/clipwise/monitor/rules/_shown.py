"""What rules are shown of a step: the loss by its name, and nothing of a clip of weights."""

from collections.abc import Mapping
from dataclasses import replace

from clipwise.monitor.store import AT_BOUND, LOSSES, PREFIX, Moment, is_part


class Shown:
    """Makes of the moments of one source what its rules are shown.

    A source with ``"clipwise/at_bound"`` clips weights: nothing else is shown of what it does, since rules
    would take it for what was done to gradients. Of a part of `clipwise.by_name` nothing is: it would be said
    of the whole again.
    """

    def __init__(self) -> None:
        self._loss: str | None = None
        self._is_of_weights = False

    def of(self, moment: Moment) -> Moment | None:
        """The moment as it is shown; None where nothing is."""
        if is_part(moment.source):
            return None
        values = self._named(moment.values)
        self._is_of_weights = self._is_of_weights or AT_BOUND in values
        if self._is_of_weights:
            values = {n: v for n, v in values.items() if not n.startswith(PREFIX) or n == AT_BOUND}
            return replace(moment, values=values, layers={}) if values else None
        return moment if values is moment.values else replace(moment, values=values)

    def _named(self, values: Mapping[str, float]) -> Mapping[str, float]:
        if self._loss is None:
            self._loss = next((name for name in values if name in LOSSES), None)
        renamed = {self._loss: "loss", "loss": "other_loss"}
        if self._loss in (None, "loss") or renamed.keys().isdisjoint(values):
            return values
        return {renamed.get(name, name): value for name, value in values.items()}
