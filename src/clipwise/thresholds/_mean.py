"""A threshold relative to the moving average of the norms."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import check_number, fraction
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Conditions, Observation, WithReasons, usable


class MeanState(NamedTuple):
    """``average``: the moving average without bias correction; ``weight``: the sum of its weights."""

    average: Array
    weight: Array


@dataclass(frozen=True)
class mean(WithReasons):
    """A factor times an exponential moving average of the earlier norms: ``T_t = factor * m_{t-1}``.

    ::

        a_t = decay * a_{t-1} + (1 - decay) * n_t        a_0 = 0
        m_t = a_t / (1 - decay^t)                        bias correction, as in Adam

    A single spike raises the average by (1 - decay) of its size; `percentile` and `zscore` are more robust.
    The first step has no average and is not clipped. A norm that is NaN, Inf or exactly 0 is ignored.

    Args:
        factor: how far above the average a norm may be, at least 0.
        decay: decay of the moving average, in [0, 1).

    >>> import numpy as np
    >>> policy = mean(factor=1.5)
    >>> state = policy.init(np, ())
    >>> for norm in (2.0, 2.0, 9.0):
    ...     threshold, state = policy.update(np, state, Observation(norm=np.asarray(norm)))
    >>> round(float(threshold), 6)
    3.0
    """

    factor: float = 1.1
    decay: float = 0.99

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("start", "history")

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", check_number("factor", self.factor))
        object.__setattr__(self, "decay", fraction("decay", self.decay))

    def init(self, xp: Any, shape: tuple[int, ...]) -> MeanState:
        return MeanState(xp.zeros(shape), xp.zeros(shape))

    def update_held(
        self, xp: Any, state: MeanState, seen: Observation
    ) -> tuple[Array, MeanState, Conditions]:
        norm = xp.asarray(seen.norm)
        started = state.weight > 0
        average = state.average / xp.where(started, state.weight, 1.0)
        threshold = xp.where(started, self.factor * average, xp.inf)
        accept = usable(xp, norm)
        after = MeanState(
            xp.where(accept, self.decay * state.average + (1.0 - self.decay) * norm, state.average),
            xp.where(accept, self.decay * state.weight + (1.0 - self.decay), state.weight),
        )
        return threshold, after, lambda: (~started,)
