"""What every back end is asked: which clip, and what to do about NaN and Inf."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias, get_args

from clipwise import config
from clipwise.clip import AnyClip, ByName, Chain, Clip
from clipwise.errors import ArgumentError
from clipwise.thresholds import Threshold

__all__ = ["NonFinite", "as_clip", "as_nonfinite", "as_weight_clip", "remembering", "singles"]

NonFinite: TypeAlias = Literal["skip", "zero", "error", "propagate"]


def as_clip(clip: AnyClip | str | Mapping[str, Any]) -> AnyClip:
    """The clip itself, or what a string or a mapping describes; ArgumentError for anything else."""
    found = config.parse(clip) if isinstance(clip, str | Mapping) else clip
    if not isinstance(found, Clip | Chain | ByName):
        raise ArgumentError(f"expected a clip such as clipwise.clip_by_global_norm(1.0), got {clip!r}")
    return found


def as_weight_clip(clip: AnyClip | str | Mapping[str, Any]) -> AnyClip:
    """`as_clip` for what is done after every step; the loss is that of the weights before it.

    Raises:
        ArgumentError: a threshold follows the loss.
    """
    found = as_clip(clip)
    for single in singles(found):
        if isinstance(single.threshold, Threshold) and "loss" in single.threshold.needs:
            raise ArgumentError(
                f"a bound of weights cannot follow the loss, as {single.threshold!r} does: use a number or a"
                " schedule"
            )
    return found


def as_nonfinite(nonfinite: str) -> NonFinite:
    """``nonfinite`` if it is one of the four words; ArgumentError otherwise."""
    if nonfinite not in get_args(NonFinite):
        allowed = ", ".join(get_args(NonFinite))
        raise ArgumentError(f"nonfinite must be one of {allowed}, got {nonfinite!r}")
    return nonfinite  # type: ignore[return-value]


def remembering(clip: AnyClip | None) -> Threshold | None:
    """The first threshold in a clip that depends on earlier steps."""
    policies = (single.threshold for single in singles(clip) if isinstance(single.threshold, Threshold))
    return next((policy for policy in policies if policy.remembers), None)


def singles(clip: AnyClip | None) -> Iterator[Clip]:
    """Every single clip in a description, in order."""
    match clip:
        case Clip():
            yield clip
        case Chain(clips=clips):
            for part in clips:
                yield from singles(part)
        case ByName(parts=parts):
            for _, own in parts:
                yield from singles(own)
