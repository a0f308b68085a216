"""A threshold policy with its state, kept where the norms are.

On the CPU a policy runs on numpy, everywhere else on torch, on the device, without waiting.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipwise.errors import StateError
from clipwise.namespace import Array, Namespace
from clipwise.thresholds import Observation, Threshold
from clipwise.torch.engines._arrays import NUMPY

__all__ = ["Keeper"]


class Keeper:
    """Runs a policy step by step and holds what it remembers.

    Args:
        policy: whose functions are called.
        shape: one entry a group, () for a single norm.
        xp: of the norms; followed when they move to another device.
    """

    def __init__(self, policy: Threshold, shape: tuple[int, ...], xp: Namespace) -> None:
        self.policy = policy
        self.xp = xp
        self.state: Any = policy.init(xp, shape)

    def update(self, xp: Namespace, seen: Observation) -> Array:
        """The threshold for this step; negative ones, of a policy of the user's own, become 0."""
        if xp is not self.xp:
            self.xp = xp
            self.state = self._placed(self.state)
        threshold, self.state = self.policy.update(xp, self.state, seen)
        return xp.clip(xp.asarray(threshold), 0.0, None)

    def extend(self, count: int) -> None:
        """Places for so many further groups, whose state starts afresh."""
        self.state = self._join(self.state, self.policy.init(self.xp, (count,)))

    def keep(self, groups: list[int]) -> None:
        """Forget all groups but these."""
        self.state = self._taken(self.state, self.xp.asarray(groups, dtype=self.xp.int64))

    def dump(self) -> Any:
        """The state as nested dicts of tensors, copied."""
        return _dump(self.state)

    def read(self, saved: Any) -> Any:
        """A state from what `dump` gave; it is not set.

        Raises:
            StateError: it does not fit this policy or these groups.
        """
        return self._read(self.state, saved)

    def _read(self, like: Any, saved: Any) -> Any:
        name = type(self.policy).__name__
        if isinstance(like, tuple):
            fields: tuple[str, ...] = getattr(like, "_fields", ())
            if not isinstance(saved, Mapping) or set(saved) != set(fields):
                raise StateError(f"the saved state of {name!r} does not fit: it should hold {list(fields)}")
            return type(like)(*[self._read(getattr(like, field), saved[field]) for field in fields])
        expected = tuple(like.shape)
        if not isinstance(saved, Tensor) or tuple(saved.shape) != expected:
            found = tuple(saved.shape) if isinstance(saved, Tensor) else type(saved).__name__
            raise StateError(f"the saved state of {name!r} does not fit: {found} in place of {expected}")
        placed = self._placed(saved.clone())
        return placed.astype(like.dtype) if self.xp is NUMPY else placed.to(like.dtype)

    def _placed(self, state: Any) -> Any:
        """A state's arrays as this device's kind of array."""
        if isinstance(state, tuple):
            return type(state)(*[self._placed(field) for field in state])
        tensor = torch.as_tensor(state)
        return tensor.cpu().numpy() if self.xp is NUMPY else tensor.to(self.xp.device)

    def _taken(self, state: Any, groups: Array) -> Any:
        if isinstance(state, tuple):
            return type(state)(*[self._taken(field, groups) for field in state])
        return self.xp.take(state, groups, axis=0)

    def _join(self, first: Any, second: Any) -> Any:
        if isinstance(first, tuple):
            return type(first)(*[self._join(a, b) for a, b in zip(first, second, strict=True)])
        return self.xp.concat([first, second])


def _dump(state: Any) -> Any:
    if isinstance(state, tuple):
        return {name: _dump(getattr(state, name)) for name in getattr(state, "_fields", ())}
    return state.clone() if isinstance(state, Tensor) else torch.tensor(np.asarray(state))
