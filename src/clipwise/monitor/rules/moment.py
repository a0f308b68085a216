"""What a rule is shown of a step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Moment"]


@dataclass(frozen=True)
class Moment:
    """What is known of one step, read to plain numbers.

    Attributes:
        step: its number.
        values: by name: ``"loss"``, ``"clipwise/norm"``, ``"critic/clipwise/threshold"``, ... A step may be
            shown in several moments: what clipping did comes in one, what the user logged in another.
        layers: the norm of each parameter's gradient, at the steps where it was recorded.
        rank: of the process.
        time: seconds since the epoch.
    """

    step: int
    values: Mapping[str, float]
    layers: Mapping[str, float] = field(default_factory=dict)
    rank: int = 0
    time: float = 0.0

    @property
    def worst(self) -> str | None:
        """The first parameter whose gradient is NaN or Inf, where that is known."""
        return next(
            (name for name, norm in self.layers.items() if not -float("inf") < norm < float("inf")), None
        )
