"""The state of a plan's thresholds: on which kind of arrays it is, and as plain dicts of tensors and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipwise.errors import StateError
from clipwise.functional.carry import carry
from clipwise.functional.group_thresholds import map_state
from clipwise.functional.plan import Plan
from clipwise.functional.stage import Stage
from clipwise.namespace import Array, Namespace
from clipwise.torch.engines._arrays import NUMPY


class PolicyState:
    """What the policies of a plan remember, kept where the norms are: on the CPU numpy's, else on the device.

    Args:
        plan: whose state it is.
        xp: of the norms; followed when they move to another device.

    Attributes:
        value: the state.
    """

    def __init__(self, plan: Plan, xp: Namespace) -> None:
        self.plan = plan
        self.xp = xp
        self.value = plan.init(xp)

    def carried(self, plan: Plan) -> "PolicyState":
        """The state of a plan of the same description over other parameters; see `carry`."""
        state = PolicyState(plan, self.xp)
        state.value = carry(self.plan, plan, self.value, self.xp)
        return state

    def on(self, xp: Namespace) -> Any:
        """The state as arrays of this namespace."""
        if xp is not self.xp:
            self.xp = xp
            self.value = map_state(lambda array: _placed(xp, array), self.value)
        return self.value

    def dump(self) -> list[dict[str, Any]]:
        """One entry a threshold: its policy, whose its groups are, and copies of its arrays."""
        return [
            {"policy": _policy(stage), "parameters": _owners(stage, state), "state": _dumped(state)}
            for stage, state in zip(self.plan.stages(), self.plan.states(self.value), strict=True)
        ]

    def read(self, saved: Any) -> Any:
        """A state from what `dump` gave; it is not set.

        Raises:
            StateError: it was saved with another kind of threshold, or for other parameters.
        """
        stages = list(self.plan.stages())
        if not isinstance(saved, Sequence) or len(saved) != len(stages):
            found = len(saved) if isinstance(saved, Sequence) else 0
            raise StateError(f"the saved state has {found} thresholds, this clip has {len(stages)}")
        trios = zip(stages, self.plan.states(self.value), saved, strict=True)
        return self.plan.joined(iter([self._read(*trio) for trio in trios]))

    def _read(self, stage: Stage, state: Any, saved: Any) -> Any:
        if not isinstance(saved, Mapping) or not {"policy", "parameters", "state"} <= saved.keys():
            raise StateError("this is not the state of a threshold")
        if saved["policy"] != _policy(stage):
            raise StateError(f"the saved state is of {saved['policy']!r}, this clip has {_policy(stage)!r}")
        owners = _owners(stage, state)
        if saved["parameters"] != owners:
            pairs = zip([*saved["parameters"], None], [*owners, None], strict=False)
            then, now = next(pair for pair in pairs if pair[0] != pair[1])
            raise StateError(f"the saved state is of other parameters: {then!r} was where {now!r} is now")
        return self._like(state, saved["state"], _policy(stage)) if state else state

    def _like(self, like: Any, saved: Any, name: str) -> Any:
        if isinstance(like, tuple):
            fields: tuple[str, ...] = getattr(like, "_fields", ())
            if not isinstance(saved, Mapping) or set(saved) != set(fields):
                raise StateError(
                    f"the saved state of {name!r} does not fit: it should hold {list(fields)}; one of a"
                    " version with another rule cannot be continued: leave it out, and it is learned anew"
                )
            return type(like)(*[self._like(getattr(like, field), saved[field], name) for field in fields])
        expected = tuple(like.shape)
        if not isinstance(saved, Tensor) or tuple(saved.shape) != expected:
            found = tuple(saved.shape) if isinstance(saved, Tensor) else type(saved).__name__
            raise StateError(f"the saved state of {name!r} does not fit: {found} in place of {expected}")
        placed = _placed(self.xp, saved.clone())
        return placed.astype(like.dtype) if isinstance(placed, np.ndarray) else placed.to(like.dtype)


def refuse_other_states(state: Any, version: int, counts: Sequence[str]) -> None:
    """StateError if this is not what a clipper gave."""
    if not isinstance(state, Mapping) or not {"version", "thresholds", *counts} <= state.keys():
        raise StateError("this is not the state of a Clipper")
    if state["version"] != version:
        raise StateError(f"the state has version {state['version']!r}; this clipwise reads version {version}")


def read_counts(state: Mapping[str, Any], names: Sequence[str]) -> list[int]:
    """The counts in a state; StateError if one is no whole number."""
    for name in names:
        if isinstance(state[name], bool) or not isinstance(state[name], int):
            raise StateError(f"{name} must be a whole number, got {state[name]!r}")
    return [state[name] for name in names]


def _policy(stage: Stage) -> str:
    return type(stage.clip.threshold).__name__


def _owners(stage: Stage, state: Any) -> list[str]:
    """The parameters behind the places of the state; none where one norm covers everything."""
    thresholds = stage.thresholds
    if thresholds.policy is None or thresholds.counts is None or (thresholds.by_entry and not state):
        return []
    return [slot.name for slot in stage.slots]


def _dumped(state: Any) -> Any:
    if isinstance(state, tuple):
        return {name: _dumped(getattr(state, name)) for name in getattr(state, "_fields", ())}
    return state.clone() if isinstance(state, Tensor) else torch.tensor(np.asarray(state), device="cpu")


def _placed(xp: Namespace, array: Array) -> Array:
    """An array of a state as this namespace's kind of array."""
    if xp.float_dtype is NUMPY.float_dtype:
        return array.cpu().numpy() if isinstance(array, Tensor) else np.asarray(array)
    return torch.as_tensor(array, device=xp.device)
