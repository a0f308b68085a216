"""Automatic clipping of per-example gradients: all norms become nearly equal."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from clipwise.checks import SMALLEST, check_number
from clipwise.errors import ThresholdError
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Observation, Stateless


@dataclass(frozen=True)
class automatic:
    """Automatic clipping of per-example gradients: ``g <- g * size / (||g|| + gamma)``.

    The threshold is ``T = size * n / (n + gamma)`` with n the norm of the example's gradient, and the
    gradient is multiplied by ``T / n`` even if that is above 1. Examples with a small gradient therefore
    count more than without clipping, and no example counts for more than ``size``. Only
    `clipwise.torch.per_example` and `clipwise.jax.per_example` accept this policy, since other clips never
    enlarge a gradient.

    Args:
        size: the norm that all gradients come close to, above 0.
        gamma: stability constant, above 0. A gradient far smaller than gamma stays small.

    Source: AUTO-S of Bu et al. 2022, "Automatic Clipping", arXiv:2206.07136 (gamma 0.01).

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
            value = check_number(name, getattr(self, name), low=SMALLEST)
            if value == math.inf:
                raise ThresholdError(f"{name} must be finite, got inf")
            object.__setattr__(self, name, value)

    def init(self, xp: Any, shape: tuple[int, ...]) -> Stateless:
        return Stateless()

    def update(self, xp: Any, state: Stateless, seen: Observation) -> tuple[Array, Stateless]:
        norm = xp.asarray(seen.norm)
        return norm * self.coefficient(norm), state

    def coefficient(self, norm: Array) -> Array:
        """The factor for a gradient of this norm."""
        return self.size / (norm + self.gamma)
