"""The state of a plan's thresholds as plain dicts of tensors and back, checked before it is set."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipwise.errors import StateError
from clipwise.torch._stage import Stage

__all__ = ["dump", "load"]


def dump(stages: Sequence[Stage], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """One entry a threshold: its policy, the parameters its groups belong to, and copies of its arrays.

    Args:
        stages: of the plan, in its order.
        names: of the parameters, by id.
    """
    return [
        {"policy": _policy(stage), "parameters": _owners(stage, names), "state": _dumped(stage)}
        for stage in stages
    ]


def load(stages: Sequence[Stage], names: Mapping[int, str], saved: Any) -> list[Any]:
    """The states for the stages, in their order, None for one that keeps none; they are not set.

    Raises:
        StateError: it was saved with another kind of threshold, or for other parameters.
    """
    if not isinstance(saved, Sequence) or len(saved) != len(stages):
        found = len(saved) if isinstance(saved, Sequence) else 0
        raise StateError(f"the saved state has {found} thresholds, this clip has {len(stages)}")
    return [_load_one(stage, names, one) for stage, one in zip(stages, saved, strict=True)]


def _load_one(stage: Stage, names: Mapping[int, str], saved: Any) -> Any:
    if not isinstance(saved, Mapping) or not {"policy", "parameters", "state"} <= saved.keys():
        raise StateError("this is no state of a threshold")
    if saved["policy"] != _policy(stage):
        raise StateError(f"the saved state is of {saved['policy']!r}, this clip has {_policy(stage)!r}")
    owners = _owners(stage, names)
    if saved["parameters"] != owners:
        pairs = zip([*saved["parameters"], None], [*owners, None], strict=False)
        then, now = next(pair for pair in pairs if pair[0] != pair[1])
        raise StateError(f"the saved state is of other parameters: {then!r} was where {now!r} is now")
    return stage.limit.keeper.read(saved["state"]) if stage.limit.keeper else None


def _policy(stage: Stage) -> str:
    return type(stage.clip.threshold).__name__


def _owners(stage: Stage, names: Mapping[int, str]) -> list[str]:
    """The parameters behind the places of the state; none where one norm covers everything."""
    if stage.limit.policy is None or stage.limit.shape == ():
        return []
    return [names.get(id(p), "") for p in stage.limit.parameters]


def _dumped(stage: Stage) -> Any:
    return stage.limit.keeper.dump() if stage.limit.keeper else {}
