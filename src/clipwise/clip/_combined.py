"""Clips one after the other, or by the names of parameters; questions to whole descriptions."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from clipwise.clip._clip import Clip
from clipwise.errors import ArgumentError
from clipwise.thresholds import Threshold


@dataclass(frozen=True)
class Chain:
    """Clips applied one after the other, each to the result of the previous one. Created by `chain`."""

    clips: tuple["AnyClip", ...]

    def __post_init__(self) -> None:
        if not self.clips:
            raise ArgumentError("chain needs at least one clip")
        for clip in self.clips:
            _check_clip("chain", clip)
        every = list(singles(self))
        first = next((place for place, clip in enumerate(every) if clip.action == "clip"), len(every))
        if any(clip.action == "skip" for clip in every[first:]):
            raise ArgumentError(
                "a step is skipped by the norm before any clipping: in a chain, skips come first, as"
                " in chain(skip_spikes(), clip_by_global_norm(1.0))"
            )

    def __iter__(self) -> Iterator["AnyClip"]:
        return iter(self.clips)


@dataclass(frozen=True)
class ByName:
    """A clip for each part of the model, by the names of its parameters. Created by `by_name`."""

    parts: tuple[tuple[str, "AnyClip | None"], ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ArgumentError("by_name needs at least one pattern")
        for pattern, clip in self.parts:
            if not isinstance(pattern, str) or not pattern:
                raise ArgumentError(f"by_name: a pattern is a non-empty string, got {pattern!r}")
            if clip is not None:
                _check_clip(f"by_name: {pattern!r}", clip)
            if leaves_steps_out(clip):
                raise ArgumentError(
                    f"by_name: {pattern!r}: a step is skipped for all parameters or for none: put the skip"
                    f" first, as in chain(skip_spikes(), by_name({{{pattern!r}: ...}}))"
                )


AnyClip: TypeAlias = Clip | Chain | ByName


def _check_clip(where: str, clip: object) -> None:
    if not isinstance(clip, Clip | Chain | ByName):
        raise ArgumentError(f"{where}: expected a clip such as clip_by_global_norm(1.0), got {clip!r}")


def chain(*clips: AnyClip) -> Chain:
    """Apply clips one after the other, each to the result of the previous one.

    Args:
        clips: at least one; those with ``action="skip"`` come first.

    Raises:
        ArgumentError: there is no clip, one is not a clip, or one that skips comes after one that clips.

    >>> from clipwise import clip_by_global_norm, clip_by_value
    >>> len(chain(clip_by_value(5.0), clip_by_global_norm(1.0)).clips)
    2
    """
    return Chain(clips)


def by_name(parts: Mapping[str, AnyClip | None]) -> ByName:
    """A clip for each part of the model, selected by the names of its parameters.

    Each part is measured separately: two parts clipped by global norm have two norms.

    Args:
        parts: maps shell patterns (``*``, ``?``, ``[ab]``) of parameter names to clips; None leaves the part
            unclipped. The first pattern that matches a name wins. Parameters that match no pattern are not
            clipped; end with ``"*"`` to include the rest.

    Raises:
        ArgumentError: there is no pattern, a pattern is not a non-empty string, or a value is not a clip or
            skips steps.

    >>> from clipwise import clip_by_global_norm
    >>> by_name({"encoder.*": clip_by_global_norm(0.5), "*": clip_by_global_norm(1.0)}).parts[0][0]
    'encoder.*'
    """
    if not isinstance(parts, Mapping):
        raise ArgumentError(f"by_name takes a mapping of patterns to clips, got {parts!r}")
    return ByName(tuple(parts.items()))


def singles(clip: AnyClip | None) -> Iterator[Clip]:
    """All single clips in a description, in order."""
    match clip:
        case Clip():
            yield clip
        case Chain(clips=clips):
            for part in clips:
                yield from singles(part)
        case ByName(parts=parts):
            for _, own in parts:
                yield from singles(own)


def never_clips(clip: AnyClip) -> bool:
    """Whether it only measures: nothing exceeds its threshold."""
    return isinstance(clip, Clip) and clip.threshold in (math.inf, (-math.inf, math.inf))


def leaves_steps_out(clip: AnyClip | None) -> bool:
    """Whether a clip in a description may skip a step."""
    return any(single.action == "skip" for single in singles(clip))


def remembering(clip: AnyClip | None) -> Threshold | Clip | None:
    """The first part that depends on earlier steps: a threshold, or a clip that counts skipped steps."""
    for single in singles(clip):
        if isinstance(single.threshold, Threshold) and single.threshold.remembers:
            return single.threshold
        if single.action == "skip":
            return single
    return None
