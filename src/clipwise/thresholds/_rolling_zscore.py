"""A threshold a number of standard deviations above the mean of the recent norms."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from clipwise.checks import SMALLEST, check_number, whole
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Conditions, Observation, WithReasons, usable

_LEAST = 1e-6
"""The least standard deviation, in means: rounding of norms that are all alike is no spike."""


class RollingState(NamedTuple):
    """The recent norms, the n-th at index n % window (``shape + (window,)``), and their number."""

    ring: Array
    count: Array


@dataclass(frozen=True)
class rolling_zscore(WithReasons):
    """Mean plus z standard deviations of the recent norms: ``T_t = mu + z * max(sigma, 1e-6 * |mu|)``.

    mu and sigma (with n - 1 in the denominator) are those of the last ``window`` norms before this step.
    Until there are half a window of norms, and at least 2, the threshold is inf. A norm that is NaN, Inf or
    exactly 0 is not added. In ``Clip(..., action="skip", on="loss")`` the losses take the place of the norms;
    they may be negative or 0, and only NaN and Inf are not added.

    Args:
        z: number of standard deviations above the mean, above 0.
        window: number of recent norms, at least 2.

    Source: the rule of OLMo-core's ``SkipStepOptimizer`` (``sigma_factor=6``,
    ``rolling_interval_length=128``); see `clipwise.skip_spikes`.

    >>> import numpy as np
    >>> policy = rolling_zscore(z=6.0, window=4)
    >>> state = policy.init(np, ())
    >>> for norm in (1.0, 2.0, 3.0, 100.0):
    ...     threshold, state = policy.update(np, state, Observation(norm=np.asarray(norm)))
    >>> float(threshold)  # 2 + 6 * 1
    8.0
    """

    z: float = 6.0
    window: int = 128

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = True
    watches_norm: ClassVar[bool] = True
    reasons: ClassVar[tuple[str, ...]] = ("warm-up", "history")
    takes_losses: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "z", check_number("z", self.z, low=SMALLEST))
        object.__setattr__(self, "window", whole("window", self.window, low=2))

    def init(self, xp: Any, shape: tuple[int, ...]) -> RollingState:
        return RollingState(xp.zeros((*shape, self.window)), xp.zeros(shape, dtype=xp.int32))

    def update_held(
        self, xp: Any, state: RollingState, seen: Observation
    ) -> tuple[Array, RollingState, Conditions]:
        norm = xp.asarray(seen.norm)
        ring, count = state
        accept = xp.isfinite(norm) if seen.of_losses else usable(xp, norm)
        places = xp.arange(self.window)
        there = places < count[..., None]

        known = xp.sum(xp.astype(there, ring.dtype), axis=-1)
        largest = xp.max(xp.abs(ring), axis=-1)  # free places hold 0
        unit = xp.where(largest > 0, largest, 1.0)
        # Relative to the largest, so that no square leaves the range.
        shares = ring / unit[..., None]
        mu = xp.sum(shares, axis=-1) / xp.where(known > 0, known, 1.0)
        off = xp.where(there, shares - mu[..., None], 0.0)
        sigma = xp.sqrt(xp.sum(off**2, axis=-1) / xp.where(known > 1, known - 1.0, 1.0))
        least = _LEAST * xp.abs(mu)
        threshold = unit * (mu + self.z * xp.where(sigma > least, sigma, least))
        active = count >= max(2, self.window // 2)
        threshold = xp.where(active, threshold, xp.inf)

        here = (places == (count % self.window)[..., None]) & accept[..., None]
        after = RollingState(xp.where(here, norm[..., None], ring), count + xp.astype(accept, xp.int32))
        return threshold, after, lambda: (~active,)
