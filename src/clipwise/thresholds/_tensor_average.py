"""A threshold for each tensor, relative to a moving average of its clipped norms (AdaGC)."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import check_number, fraction, whole
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Conditions, Observation, WithReasons, usable


class TensorAverageState(NamedTuple):
    """``gamma``: the average of the clipped norms; ``count``: the number of norms in it."""

    gamma: Array
    count: Array


@dataclass(frozen=True)
class tensor_average(WithReasons):
    """A factor times a moving average of each group's own clipped norms (AdaGC).

    In the first ``warmup`` steps all gradients are clipped by their global norm to ``start``, and gamma is
    the smallest clipped norm so far. After that, ``T_t = factor * gamma_{t-1}`` for each group::

        t <= warmup:  c_t = n_t * min(1, start / global norm)
                      gamma_t = min(gamma_{t-1}, c_t)
        t >  warmup:  c_t = min(n_t, factor * gamma_{t-1})
                      gamma_t = decay * gamma_{t-1} + (1 - decay) * c_t

    A norm that is NaN, Inf or exactly 0 is ignored. Otherwise a tensor whose first gradients are 0, such as
    the second factor of a low-rank adapter, would stay at 0 forever.

    Args:
        factor: how far above its average a norm may be, at least 0.
        decay: decay of the moving average, in [0, 1).
        warmup: number of warm-up steps, counted from 1 for each group over the norms that are not ignored.
            This agrees with the authors' code (``steps <= start_clip_steps``, github.com/lishuai-97/AdaGC).
            In pytorch_optimizer's AdaGC the warm-up is one step shorter (``step < warmup_steps``): its 100 is
            99 here.
        start: threshold of the global norm during the warm-up.

    Source: Wang et al. 2025, arXiv:2502.11034 (factor 1.05, decay 0.98, 100 steps).

    >>> import numpy as np
    >>> policy = tensor_average(warmup=1)
    >>> state = policy.init(np, ())
    >>> for norm in (0.5, 10.0):
    ...     seen = Observation(norm=np.asarray(norm), global_norm=np.asarray(norm))
    ...     threshold, state = policy.update(np, state, seen)
    >>> round(float(threshold), 4)
    0.525
    """

    factor: float = 1.05
    decay: float = 0.98
    warmup: int = 100
    start: float = 1.0

    needs: ClassVar[frozenset[str]] = frozenset({"global_norm"})
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("warm-up", "history")

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", check_number("factor", self.factor))
        object.__setattr__(self, "decay", fraction("decay", self.decay))
        object.__setattr__(self, "start", check_number("start", self.start))
        object.__setattr__(self, "warmup", whole("warmup", self.warmup))

    def init(self, xp: Any, shape: tuple[int, ...]) -> TensorAverageState:
        return TensorAverageState(xp.full(shape, xp.inf), xp.zeros(shape, dtype=xp.int32))

    def update_held(
        self, xp: Any, state: TensorAverageState, seen: Observation
    ) -> tuple[Array, TensorAverageState, Conditions]:
        norm = xp.asarray(seen.norm)
        together = xp.asarray(seen.global_norm)
        gamma, count = state
        accept = usable(xp, norm) & xp.isfinite(together)
        young = count < self.warmup

        over = together > self.start
        young_threshold = xp.where(over, norm * (self.start / xp.where(over, together, 1.0)), norm)
        threshold = xp.where(young, young_threshold, self.factor * gamma)

        kept = xp.minimum(norm, threshold)
        # A clipped norm of 0 (start=0) would hold the group at 0 forever, as a gradient of 0 would.
        young_gamma = xp.where(kept > 0, xp.minimum(gamma, kept), gamma)
        old_gamma = self.decay * gamma + (1.0 - self.decay) * kept
        after = TensorAverageState(
            xp.where(accept, xp.where(young, young_gamma, old_gamma), gamma),
            count + xp.astype(accept, xp.int32),
        )
        return threshold, after, lambda: (young,)
