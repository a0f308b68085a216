"""A threshold that tracks a quantile of the norms with a single number of memory (Andrew et al.)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import SMALLEST, check_number
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Observation, usable


class QuantileState(NamedTuple):
    """The threshold."""

    threshold: Array


@dataclass(frozen=True)
class quantile_ema:
    """Track a quantile of the norms: ``C <- C * exp(-rate * (b - quantile))`` with b = 1 if n <= C, else 0.

    The threshold of a step is C before this update. In the long run a share ``quantile`` of the norms is
    below it. The state is one number, and C changes by a factor of at most exp(rate) per step, so a single
    spike cannot raise it much. A norm that is NaN, Inf or exactly 0 does not change it.

    Args:
        quantile: the quantile, 0 to 1.
        rate: learning rate of log C, at least 0.
        start: first threshold, above 0.

    Source: Andrew et al. 2021, arXiv:1905.03871 (rate 0.2, start 0.1, the median).

    >>> import numpy as np
    >>> policy = quantile_ema(start=1.0)
    >>> _, state = policy.update(np, policy.init(np, ()), Observation(norm=np.asarray(5.0)))
    >>> round(float(state.threshold), 6)  # exp(.2 * .5)
    1.105171
    """

    quantile: float = 0.5
    rate: float = 0.2
    start: float = 0.1

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantile", check_number("quantile", self.quantile, high=1.0))
        object.__setattr__(self, "rate", check_number("rate", self.rate, high=100.0))
        object.__setattr__(self, "start", check_number("start", self.start, low=SMALLEST))

    def init(self, xp: Any, shape: tuple[int, ...]) -> QuantileState:
        return QuantileState(xp.full(shape, self.start))

    def update(self, xp: Any, state: QuantileState, seen: Observation) -> tuple[Array, QuantileState]:
        norm = xp.asarray(seen.norm)
        threshold = state.threshold
        down = math.exp(-self.rate * (1.0 - self.quantile))
        up = math.exp(self.rate * self.quantile)
        moved = xp.where(norm <= threshold, threshold * down, threshold * up)
        return threshold, QuantileState(xp.where(usable(xp, norm), moved, threshold))

    def update_many(self, xp: Any, state: QuantileState, norms: Array) -> QuantileState:
        """The next state from the norms of the examples of one step, along axis 0, in one update.

        ``C <- C * exp(-rate * (b - quantile))`` with b the share of the examples with ``n <= C``. This is the
        rule of Andrew et al., who also add noise to b.
        """
        threshold = state.threshold
        there = xp.astype(usable(xp, norms), norms.dtype)
        below = xp.astype(norms <= threshold, norms.dtype) * there
        count = xp.sum(there, axis=0)
        share = xp.sum(below, axis=0) / xp.where(count > 0, count, 1.0)
        walk = xp.exp(-self.rate * (share - self.quantile))
        return QuantileState(xp.where(count > 0, threshold * walk, threshold))
