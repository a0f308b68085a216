"""What every back end is asked: which clip, and what to do about NaN and Inf."""

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from clipwise import config
from clipwise.clip import AnyClip, ByName, Chain, Clip
from clipwise.errors import ArgumentError
from clipwise.thresholds import Threshold

__all__ = ["NonFinite", "as_clip", "as_nonfinite", "remembering"]

NonFinite: TypeAlias = Literal["skip", "zero", "error", "propagate"]


def as_clip(clip: AnyClip | str | Mapping[str, Any]) -> AnyClip:
    """The clip itself, or what a string or a mapping describes; ArgumentError for anything else."""
    found = config.parse(clip) if isinstance(clip, str | Mapping) else clip
    if not isinstance(found, Clip | Chain | ByName):
        raise ArgumentError(f"expected a clip such as clipwise.clip_by_global_norm(1.0), got {clip!r}")
    return found


def as_nonfinite(nonfinite: str) -> NonFinite:
    """``nonfinite`` if it is one of the four words; ArgumentError otherwise."""
    if nonfinite not in get_args(NonFinite):
        allowed = ", ".join(get_args(NonFinite))
        raise ArgumentError(f"nonfinite must be one of {allowed}, got {nonfinite!r}")
    return nonfinite  # type: ignore[return-value]


def remembering(clip: AnyClip | None) -> Threshold | None:
    """The first threshold in a clip that depends on earlier steps."""
    match clip:
        case Clip(threshold=Threshold() as policy) if policy.remembers:
            return policy
        case Chain(clips=clips):
            return next(filter(None, map(remembering, clips)), None)
        case ByName(parts=parts):
            return next(filter(None, (remembering(part) for _, part in parts)), None)
        case _:
            return None
