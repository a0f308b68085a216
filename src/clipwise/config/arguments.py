"""The clip that every entry of a back end is given: one, or its description."""

from collections.abc import Mapping
from typing import Any

from clipwise import config
from clipwise.clip import AnyClip, ByName, Chain, Clip, leaves_steps_out, singles
from clipwise.errors import ArgumentError
from clipwise.thresholds import Threshold


def as_clip(clip: AnyClip | str | Mapping[str, Any]) -> AnyClip:
    """The clip itself, or what a string or a mapping describes; ArgumentError for anything else."""
    found = config.parse(clip) if isinstance(clip, str | Mapping) else clip
    if not isinstance(found, Clip | Chain | ByName):
        raise ArgumentError(f"expected a clip such as clipwise.clip_by_global_norm(1.0), got {clip!r}")
    return found


def refuse_skips(clip: AnyClip) -> None:
    """ArgumentError for a clip of weights that leaves steps out."""
    if leaves_steps_out(clip):
        raise ArgumentError(
            'weights are bounded after a step that has happened: action="skip" is for gradients'
        )


def as_weight_clip(clip: AnyClip | str | Mapping[str, Any]) -> AnyClip:
    """`as_clip` for what is done after every step; the loss is that of the weights before it.

    Raises:
        ArgumentError: a threshold follows the loss, or a clip leaves steps out.
    """
    found = as_clip(clip)
    refuse_skips(found)
    for single in singles(found):
        if isinstance(single.threshold, Threshold) and "loss" in single.threshold.needs:
            raise ArgumentError(
                f"a bound of weights cannot follow the loss, as {single.threshold!r} does: use a number or a"
                " schedule"
            )
    return found
