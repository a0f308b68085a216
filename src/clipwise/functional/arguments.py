"""Checks of arguments that all back ends share: how to treat NaN and Inf."""

from typing import Literal, TypeAlias, get_args

from clipwise.clip import AnyClip, leaves_steps_out
from clipwise.errors import ArgumentError

NonFinite: TypeAlias = Literal["skip", "zero", "error", "propagate"]


def as_nonfinite(nonfinite: str) -> NonFinite:
    """``nonfinite`` if it is one of the four allowed words; otherwise ArgumentError."""
    if nonfinite not in get_args(NonFinite):
        allowed = ", ".join(get_args(NonFinite))
        raise ArgumentError(f"nonfinite must be one of {allowed}, got {nonfinite!r}")
    return nonfinite  # type: ignore[return-value]


def may_leave_out(clip: AnyClip, nonfinite: NonFinite) -> bool:
    """Whether a step may be skipped, because of NaN and Inf or by ``action="skip"``."""
    return nonfinite == "skip" or leaves_steps_out(clip)
