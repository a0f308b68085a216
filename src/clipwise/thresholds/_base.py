"""What a policy sees, and what every policy offers."""

import math
import numbers
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from clipwise.errors import ArgumentError, ThresholdError
from clipwise.namespace import Array, is_traced

__all__ = [
    "NOTHING",
    "Observation",
    "Stateless",
    "Threshold",
    "check_fraction",
    "check_number",
    "usable",
]

NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a policy may look at in one step.

    Attributes:
        norm: norm of each group of gradient entries before clipping; any shape, ``()`` for a global norm.
        step: how many steps there were before this one (0 for the first), skipped ones included.
        global_norm: the norm over all groups together.
        weight_norm: norm of the weights of each group, same shape as ``norm``.
        weight_count: number of weights behind ``weight_norm``.
        learning_rate: the optimizer's learning rate; the largest, where its groups differ.
        momentum: the optimizer's momentum in [0, 1).
        scale_free: the optimizer divides by the gradient's own size (Adam, RMSprop), so that learning rate
            times gradient says nothing about the size of the step.
        loss: the training loss of this step.

    A back end leaves at ``None`` what it does not know.
    """

    norm: Array
    step: Array = 0
    global_norm: Array | None = None
    weight_norm: Array | None = None
    weight_count: Array | None = None
    learning_rate: Array | None = None
    momentum: Array | None = None
    scale_free: bool = False
    loss: Array | None = None


@runtime_checkable
class Threshold(Protocol):
    """A rule that gives the threshold of each step: a frozen dataclass with two pure functions.

    They use array namespace operations only and never branch on a value, so the same policy runs on plain
    floats, on a GPU without waiting for it, and inside a compiled step. Every array of the state begins with
    the axes ``shape`` given to `init`, one entry a group.

    Attributes:
        needs: fields of `Observation` that must be there.
        wants: fields that it uses where they are there.
        remembers: whether the threshold depends on earlier steps or on the step's number.
        watches_norm: whether the threshold depends on the norms of the gradient.
    """

    needs: ClassVar[frozenset[str]]
    wants: ClassVar[frozenset[str]]
    remembers: ClassVar[bool]
    watches_norm: ClassVar[bool]

    def init(self, xp: Any, shape: tuple[int, ...]) -> Any:
        """The state before the first step: a (nested) NamedTuple of arrays."""

    def update(self, xp: Any, state: Any, seen: Observation) -> tuple[Array, Any]:
        """The threshold for this step, broadcastable to ``seen.norm``, and the next state."""


class Stateless(NamedTuple):
    """The state of a policy that keeps none."""


def usable(xp: Any, norm: Array) -> Array:
    """Which norms may enter a history: finite, and not exactly 0.

    A norm of 0 says that no gradient arrived (a frozen tensor, an expert that was not chosen). If such zeros
    counted, a low percentile would become 0 and the tensor could never move again.
    """
    return xp.isfinite(norm) & (norm > 0)


def check_number(
    name: str, value: Any, *, low: float = 0.0, high: float = math.inf, traced: bool = False
) -> float:
    """``value`` as a float within [low, high]; ThresholdError naming it otherwise.

    With ``traced`` a number that is not known yet is let through as it is; only its shape can be checked.
    """
    if is_traced(value):
        if traced and tuple(value.shape) == ():
            return value  # type: ignore[no-any-return]
        what = "a single number" if traced else "known while the clip is made"
        raise ThresholdError(f"{name} must be {what}, got {value!r}")
    # A bool is a number to Python and numpy's complex has a __float__; as a threshold both are mistakes.
    no_number = isinstance(value, bool | np.bool_ | str | bytes | np.complexfloating)
    if no_number or not hasattr(value, "__float__"):
        raise ThresholdError(f"{name} must be a number, got {value!r}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ThresholdError(f"{name} must be a single number, got {value!r}") from error
    if math.isnan(number):
        raise ThresholdError(f"{name} must be a number, got NaN")
    if not low <= number <= high:
        allowed = f"at least {low:g}" if high == math.inf else f"within [{low:g}, {high:g}]"
        raise ThresholdError(f"{name} must be {allowed}, got {value!r}")
    return number


def check_fraction(name: str, value: Any) -> float:
    """``value`` as a float within [0, 1); ArgumentError otherwise. For decays."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < 1:
        raise ArgumentError(f"{name} must be at least 0 and below 1, got {value!r}")
    return float(value)


def check_count(name: str, value: Any, *, low: int = 1) -> int:
    """``value`` as an integer of at least ``low``; ArgumentError otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < low:
        raise ArgumentError(f"{name} must be a whole number of at least {low}, got {value!r}")
    return int(value)
