"""A threshold relative to the norm of the weights (AGC)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from clipwise.checks import SMALLEST, check_number
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Conditions, Observation, Stateless, WithReasons


@dataclass(frozen=True)
class relative(WithReasons):
    """A threshold proportional to the norm of the weights: ``T = ratio * max(||w||, eps)``, for each group.

    Args:
        ratio: the largest ratio of the gradient's norm to the weights' norm, at least 0.
        eps: lower bound of the weights' norm, above 0, so that weights that start at 0 can move.

    Source: adaptive gradient clipping, Brock et al. 2021, arXiv:2102.06171, where it is used with
    ``per="unit"``.

    >>> import numpy as np
    >>> policy = relative(0.01)
    >>> float(policy.update(np, policy.init(np, ()), Observation(norm=1.0, weight_norm=np.asarray(20.0)))[0])
    0.2
    """

    ratio: float = 0.01
    eps: float = 1e-3

    needs: ClassVar[frozenset[str]] = frozenset({"weight_norm"})
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = False
    watches_norm: ClassVar[bool] = False
    reasons: ClassVar[tuple[str, ...]] = ("floor", "weights")

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio", check_number("ratio", self.ratio, traced=True))
        object.__setattr__(self, "eps", check_number("eps", self.eps, low=SMALLEST))

    def init(self, xp: Any, shape: tuple[int, ...]) -> Stateless:
        return Stateless()

    def update_held(
        self, xp: Any, state: Stateless, seen: Observation
    ) -> tuple[Array, Stateless, Conditions]:
        weight_norm = xp.asarray(seen.weight_norm)
        return self.ratio * xp.clip(weight_norm, self.eps, None), state, lambda: (weight_norm < self.eps,)
