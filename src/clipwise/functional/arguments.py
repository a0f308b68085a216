"""What every back end is asked to do about NaN and Inf."""

from typing import Literal, TypeAlias, get_args

from clipwise.errors import ArgumentError

NonFinite: TypeAlias = Literal["skip", "zero", "error", "propagate"]


def as_nonfinite(nonfinite: str) -> NonFinite:
    """``nonfinite`` if it is one of the four words; ArgumentError otherwise."""
    if nonfinite not in get_args(NonFinite):
        allowed = ", ".join(get_args(NonFinite))
        raise ArgumentError(f"nonfinite must be one of {allowed}, got {nonfinite!r}")
    return nonfinite  # type: ignore[return-value]
