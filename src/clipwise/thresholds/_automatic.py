"""Every norm brought to nearly one size (automatic clipping), for single examples."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from clipwise.checks import check_number
from clipwise.errors import ThresholdError
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Observation, Stateless


@dataclass(frozen=True)
class automatic:
    """Automatic clipping: ``g <- g * size / (||g|| + gamma)``, for the gradient of each example.

    The threshold is ``T = size * n / (n + gamma)``, and the gradient is multiplied by ``T / n`` also where
    that is above 1: examples with a small gradient count more than before, and none more than ``size``.
    Only for `clipwise.torch.per_example` and `clipwise.jax.per_example`: other clips never enlarge.

    Args:
        size: what every norm comes near to, above 0.
        gamma: above 0; a gradient far below it stays small.

    Source: AUTO-S of Bu et al. 2022, "Automatic Clipping", arXiv:2206.07136 (gamma .01).

    >>> import numpy as np
    >>> policy = automatic(1.0, gamma=1.0)
    >>> float(policy.update(np, policy.init(np, ()), Observation(norm=np.asarray(3.0)))[0])
    0.75
    """

    size: float = 1.0
    gamma: float = 0.01

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = False
    watches_norm: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("size", "gamma"):
            value = check_number(name, getattr(self, name), low=math.ulp(0.0))
            if value == math.inf:
                raise ThresholdError(f"{name} must be finite, got inf")
            object.__setattr__(self, name, value)

    def init(self, xp: Any, shape: tuple[int, ...]) -> Stateless:
        return Stateless()

    def update(self, xp: Any, state: Stateless, seen: Observation) -> tuple[Array, Stateless]:
        norm = xp.asarray(seen.norm)
        return norm * self.coefficient(norm), state

    def coefficient(self, norm: Array) -> Array:
        """What a gradient of this norm is multiplied by."""
        return self.size / (norm + self.gamma)
