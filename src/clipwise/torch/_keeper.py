"""A threshold policy with its state, kept where the norms are.

On the CPU a policy runs on numpy, on the memory of torch's tensors: its few operations on a few numbers cost
a third there of what they cost in torch. Everywhere else it runs on torch, on the device, without waiting.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import array_api_compat.numpy
import numpy as np
import torch
from torch import Tensor

from clipwise.errors import StateError
from clipwise.namespace import Namespace, namespace_of
from clipwise.thresholds import Observation, Threshold
from clipwise.torch.engines import reference as engine

__all__ = ["Keeper", "namespace_on"]


def namespace_on(device: torch.device) -> Namespace:
    """torch's namespace, bound to a device and its wide dtype."""
    return namespace_of(torch.empty((), dtype=engine.wide(device), device=device))


class Keeper:
    """Runs a policy step by step and holds what it remembers.

    Args:
        policy: whose functions are called.
        shape: one entry a group, () for a single norm.
        device: where the norms will be; followed when they move.
    """

    def __init__(self, policy: Threshold, shape: tuple[int, ...], device: torch.device) -> None:
        self.policy = policy
        self._go_to(device)
        self.state: Any = policy.init(self.xp, shape)

    def _go_to(self, device: torch.device) -> None:
        self.device = device
        self.on_numpy = device.type == "cpu"
        self.xp = (
            Namespace(array_api_compat.numpy, np.float64, None) if self.on_numpy else namespace_on(device)
        )

    def update(self, seen: Observation) -> Tensor:
        """The threshold for this step; negative ones, of a policy of the user's own, become 0."""
        device, dtype = seen.norm.device, seen.norm.dtype
        if device != self.device:
            self._go_to(device)
            self.state = self._placed(self.state)
        if self.on_numpy:
            with np.errstate(all="ignore"):  # norms of NaN and Inf are part of the business
                threshold, self.state = self.policy.update(self.xp, self.state, _on_numpy(seen))
            found = torch.tensor(np.asarray(threshold), dtype=dtype)
        else:
            threshold, self.state = self.policy.update(self.xp, self.state, seen)
            found = self.xp.asarray(threshold).to(device, dtype)
        return found.clamp(min=0.0)

    def extend(self, count: int) -> None:
        """Places for so many further groups, whose state starts afresh."""
        self.state = self._join(self.state, self.policy.init(self.xp, (count,)))

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
        return placed.astype(like.dtype) if self.on_numpy else placed.to(like.dtype)

    def _placed(self, state: Any) -> Any:
        """A state's arrays as this device's kind of array."""
        if isinstance(state, tuple):
            return type(state)(*[self._placed(field) for field in state])
        tensor = torch.as_tensor(state)
        return tensor.cpu().numpy() if self.on_numpy else tensor.to(self.device)

    def _join(self, first: Any, second: Any) -> Any:
        if isinstance(first, tuple):
            return type(first)(*[self._join(a, b) for a, b in zip(first, second, strict=True)])
        return self.xp.concat([first, second])


def _on_numpy(seen: Observation) -> Observation:
    values = {field.name: getattr(seen, field.name) for field in dataclasses.fields(seen)}
    arrays: dict[str, Any] = {k: v.cpu().numpy() if isinstance(v, Tensor) else v for k, v in values.items()}
    return Observation(**arrays)


def _dump(state: Any) -> Any:
    if isinstance(state, tuple):
        return {name: _dump(getattr(state, name)) for name in getattr(state, "_fields", ())}
    return state.clone() if isinstance(state, Tensor) else torch.tensor(np.asarray(state))
