"""A threshold that is reduced when the loss becomes unstable."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import check_number, is_number, whole
from clipwise.errors import ArgumentError, ParameterError, ThresholdError
from clipwise.namespace import Array
from clipwise.thresholds import _history
from clipwise.thresholds._base import NOTHING, Conditions, Observation, WithReasons
from clipwise.thresholds._losses import ENOUGH, jumped


class InstabilityState(NamedTuple):
    """The threshold, the recent losses, and the jumps since the last reduction."""

    threshold: Array
    losses: _history.History
    jumps: Array
    calm: Array


@dataclass(frozen=True)
class reduce_on_instability(WithReasons):
    """``T <- max(floor, factor * T)`` each time the loss has jumped ``patience`` times.

    A loss jumps if it is NaN, Inf, or above ``median + z * 1.4826 * MAD`` of the last ``window`` losses,
    itself included; this takes at least 10 losses. If MAD is 0, 1.2533 times the mean absolute deviation is
    in place of ``1.4826 * MAD``. After ``window`` steps without a jump, the count starts again at 0. The loss
    of each step must be given: ``clipper.observe(loss)`` before the step.

    Args:
        start: first threshold, at least ``floor``.
        factor: factor of a reduction, in (0, 1).
        patience: number of jumps before a reduction.
        floor: lower bound of the threshold, at least 0.
        window: number of recent losses, at least 10.
        z: number of robust standard deviations above the median.

    >>> import numpy as np
    >>> policy = reduce_on_instability(1.0, 0.5, patience=1)
    >>> state = policy.init(np, ())
    >>> for loss in [1.0, 1.1] * 10 + [50.0]:
    ...     threshold, state = policy.update(np, state, Observation(norm=1.0, loss=np.asarray(loss)))
    >>> float(threshold)
    0.5
    """

    start: float = 1.0
    factor: float = 0.5
    patience: int = 3
    floor: float = 0.05
    window: int = 100
    z: float = 3.0

    needs: ClassVar[frozenset[str]] = frozenset({"loss"})
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = False
    reasons: ClassVar[tuple[str, ...]] = ("start", "floor", "loss")

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", check_number("start", self.start))
        object.__setattr__(self, "floor", check_number("floor", self.floor))
        object.__setattr__(self, "z", check_number("z", self.z))
        if self.floor > self.start:
            raise ThresholdError(f"floor must not exceed start={self.start:g}, got {self.floor:g}")
        if not is_number(self.factor) or not 0 < self.factor < 1:
            raise ArgumentError(f"factor must lie between 0 and 1, got {self.factor!r}")
        object.__setattr__(self, "patience", whole("patience", self.patience))
        object.__setattr__(self, "window", whole("window", self.window, low=ENOUGH))

    def init(self, xp: Any, shape: tuple[int, ...]) -> InstabilityState:
        nought = xp.zeros(shape, dtype=xp.int32)
        return InstabilityState(
            xp.full(shape, self.start), _history.start(xp, shape, self.window), nought, nought
        )

    def update_held(
        self, xp: Any, state: InstabilityState, seen: Observation
    ) -> tuple[Array, InstabilityState, Conditions]:
        if seen.loss is None:
            raise ParameterError(
                "reduce_on_instability needs the loss of every step: call clipper.observe(loss) before it"
            )
        threshold, losses, jumps, calm = state
        loss = xp.zeros_like(threshold) + xp.asarray(seen.loss)
        jump, _, losses = jumped(xp, losses, loss, self.z)

        calm = xp.where(jump, 0, calm + 1)
        jumps = xp.where(jump, jumps + 1, xp.where(calm >= self.window, 0, jumps))
        shrink = jumps >= self.patience
        threshold = xp.where(shrink, xp.clip(self.factor * threshold, self.floor, None), threshold)
        after = InstabilityState(threshold, losses, xp.where(shrink, 0, jumps), calm)
        return threshold, after, lambda: (threshold >= self.start, threshold <= self.floor)
