"""A threshold for norms far above their moving average (ZClip)."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import SMALLEST, check_number, fraction, whole
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Conditions, Observation, WithReasons, usable

_EPS = 1e-6


class ZScoreState(NamedTuple):
    """Mean and variance of the norms, and their number."""

    mean: Array
    variance: Array
    count: Array


@dataclass(frozen=True)
class zscore(WithReasons):
    """ZClip: clip norms more than z standard deviations above the moving average, extreme ones the most.

    ``z_t = (n_t - mu) / (sigma + 1e-6)``; if ``z_t > z``: ``T_t = mu + z^2 * sigma / z_t``. Then mu and
    sigma^2 are updated with the clipped norm n, so that a spike hardly raises them::

        mu      <- decay * mu + (1 - decay) * n
        sigma^2 <- decay * sigma^2 + (1 - decay) * (n - mu)^2        with the new mu

    Their first values are the mean and the population variance of the first ``warmup`` norms, during which
    nothing is clipped. In a step that is not clipped the reported threshold is ``mu + z * (sigma + 1e-6)``,
    above which the step would have been clipped. A norm that is NaN, Inf or exactly 0 is ignored, and in the
    warm-up also one whose square overflows.

    Args:
        z: number of standard deviations above the mean, above 0.
        decay: decay of mean and variance, in [0, 1).
        warmup: number of norms that are collected before anything is clipped.

    Source: Kumar et al. 2025, arXiv:2504.02507, "adaptive scaling". The authors' code also clips to a fixed
    norm of 1; for that, chain it: ``chain(zclip(), clip_by_global_norm(1.0))``.

    >>> import numpy as np
    >>> policy = zscore(warmup=4)
    >>> state = policy.init(np, ())
    >>> for norm in (1.0, 2.0, 1.0, 2.0, 100.0):
    ...     threshold, state = policy.update(np, state, Observation(norm=np.asarray(norm)))
    >>> round(float(threshold), 4)  # 1.5 + 2.5^2 * 0.5 / 197
    1.5159
    """

    z: float = 2.5
    decay: float = 0.97
    warmup: int = 25

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("warm-up", "history")

    def __post_init__(self) -> None:
        object.__setattr__(self, "z", check_number("z", self.z, low=SMALLEST))
        object.__setattr__(self, "decay", fraction("decay", self.decay))
        object.__setattr__(self, "warmup", whole("warmup", self.warmup))

    def init(self, xp: Any, shape: tuple[int, ...]) -> ZScoreState:
        return ZScoreState(xp.zeros(shape), xp.zeros(shape), xp.zeros(shape, dtype=xp.int32))

    def update_held(
        self, xp: Any, state: ZScoreState, seen: Observation
    ) -> tuple[Array, ZScoreState, Conditions]:
        norm = xp.asarray(seen.norm)
        mu, variance, count = state
        active = count >= self.warmup
        # In the warm-up nothing bounds a norm; a variance that overflowed would never be finite again.
        accept = usable(xp, norm) & (active | xp.isfinite(norm * norm))

        sigma = xp.sqrt(variance)
        score = (norm - mu) / (sigma + _EPS)
        unusual = score > self.z
        pulled = mu + self.z**2 * sigma / xp.where(unusual, score, 1.0)
        threshold = xp.where(unusual, pulled, mu + self.z * (sigma + _EPS))
        threshold = xp.where(active, threshold, xp.inf)

        # The warm-up's mean and population variance, one value at a time (Welford).
        number = xp.astype(count, norm.dtype) + 1.0
        young_mu = mu + (norm - mu) / number
        young_variance = variance + ((norm - mu) * (norm - young_mu) - variance) / number
        kept = xp.minimum(norm, threshold)
        old_mu = self.decay * mu + (1.0 - self.decay) * kept
        old_variance = self.decay * variance + (1.0 - self.decay) * (kept - old_mu) ** 2
        after = ZScoreState(
            xp.where(accept, xp.where(active, old_mu, young_mu), mu),
            xp.where(accept, xp.where(active, old_variance, young_variance), variance),
            count + xp.astype(accept, xp.int32),
        )
        return threshold, after, lambda: (~active,)
