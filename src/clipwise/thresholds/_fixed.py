"""A threshold that never changes."""

from dataclasses import dataclass
from typing import Any, ClassVar

from clipwise.checks import check_number
from clipwise.namespace import Array
from clipwise.thresholds._base import NOTHING, Observation, Stateless


@dataclass(frozen=True)
class fixed:
    """The same threshold in every step: ``T = value``.

    A plain number does the same. Use this where a policy is required.

    >>> import numpy as np
    >>> policy = fixed(1.0)
    >>> policy.update(np, policy.init(np, ()), Observation(norm=3.0))[0]
    1.0
    """

    value: float

    needs: ClassVar[frozenset[str]] = NOTHING
    wants: ClassVar[frozenset[str]] = NOTHING
    remembers: ClassVar[bool] = False
    watches_norm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", check_number("value", self.value, traced=True))

    def init(self, xp: Any, shape: tuple[int, ...]) -> Stateless:
        return Stateless()

    def update(self, xp: Any, state: Stateless, seen: Observation) -> tuple[Array, Stateless]:
        return self.value, state
