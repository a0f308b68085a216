"""A threshold that walks to a quantile of the norms without keeping them (Andrew et al.)."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import check_number
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Observation, usable


class QuantileState(NamedTuple):
    """The threshold itself."""

    threshold: Array


@dataclass(frozen=True)
class quantile_ema:
    """A geometric walk towards a quantile: ``C <- C * exp(-rate * (b - quantile))``, b = 1 if n <= C else 0.

    The threshold of a step is C before the walk. It is above a share ``quantile`` of the norms in the long
    run, needs one number of memory, and moves by at most a factor exp(rate) a step, so no spike can lift it.
    A norm that is NaN, Inf or exactly 0 does not move it.

    Args:
        quantile: 0 to 1.
        rate: step of the walk on the log scale, at least 0.
        start: first threshold, above 0.

    Source: Andrew et al. 2021, arXiv:1905.03871 (rate .2, start .1, median).

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
        object.__setattr__(self, "start", check_number("start", self.start, low=math.ulp(0.0)))

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
        """The next state after the norms of the examples of one step, along axis 0: one walk, by their share.

        ``C <- C * exp(-rate * (b - quantile))`` with b the share of the examples with ``n <= C``, which is
        the rule as Andrew et al. have it, there with noise added to b.
        """
        threshold = state.threshold
        there = xp.astype(usable(xp, norms), norms.dtype)
        below = xp.astype(norms <= threshold, norms.dtype) * there
        count = xp.sum(there, axis=0)
        share = xp.sum(below, axis=0) / xp.where(count > 0, count, 1.0)
        walk = xp.exp(-self.rate * (share - self.quantile))
        return QuantileState(xp.where(count > 0, threshold * walk, threshold))
