"""The options of `per_example`, checked; the same in every back end."""

import math
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from clipwise.checks import number_where, whole
from clipwise.clip import AnyClip
from clipwise.errors import ArgumentError

__all__ = ["Options", "Reduction", "WhenNonFinite", "one_of"]

Reduction: TypeAlias = Literal["mean", "sum"]
WhenNonFinite: TypeAlias = Literal["propagate", "drop", "error"]


@dataclass(frozen=True)
class Options:
    """The options of per-example clipping.

    Attributes:
        clip: clips by global norm or by tensor.
        loss: whether clipped gradients are averaged or summed.
        batch_size: divisor of the sum for a mean; None: the number of examples.
        micro_batch: number of examples at a time; None: chosen automatically.
        nonfinite: what to do about examples with NaN or Inf.
        noise_multiplier: standard deviation of the noise divided by the sensitivity.
    """

    clip: AnyClip
    loss: Reduction
    batch_size: int | None
    micro_batch: int | None
    nonfinite: WhenNonFinite
    noise_multiplier: float

    @classmethod
    def checked(
        cls,
        clip: AnyClip,
        loss: Reduction,
        batch_size: int | None,
        micro_batch: int | None,
        nonfinite: WhenNonFinite,
        noise_multiplier: float,
    ) -> "Options":
        """Options from arguments; ``clip`` is a result of `clipwise.config.arguments.as_example_clip`.

        Raises:
            ArgumentError: an argument is not allowed, or the arguments do not fit together.
        """
        one_of("loss", loss, Reduction)
        one_of("nonfinite", nonfinite, WhenNonFinite)
        noise = number_where(
            "noise_multiplier",
            noise_multiplier,
            lambda value: 0 <= value < math.inf,
            "a number of at least 0",
        )
        if loss == "sum" and batch_size is not None:
            raise ArgumentError(f'batch_size={batch_size} is what loss="mean" divides by; loss is "sum"')
        if noise and loss == "mean" and batch_size is None:
            raise ArgumentError(
                "noise for a mean needs batch_size=, the (expected) number of examples of a step that the sum"
                " is divided by, which must not depend on the data"
            )
        return cls(
            clip,
            loss,
            None if batch_size is None else whole("batch_size", batch_size),
            None if micro_batch is None else whole("micro_batch", micro_batch),
            nonfinite,
            noise,
        )

    def refuse_unbounded(self, bounded: bool) -> None:
        """ArgumentError for noise unless the clip bounds every example."""
        if not bounded:
            raise ArgumentError(
                f"{self.clip!r} leaves an example without a bound, so the scale of the noise is unknown: give"
                " every parameter a finite threshold"
            )

    @property
    def divisor(self) -> int:
        """The divisor of a sensitivity.

        Raises:
            ArgumentError: it is unknown, because a mean is divided by the number of examples.
        """
        if self.loss == "sum":
            return 1
        if self.batch_size is None:
            raise ArgumentError("the sensitivity of a mean needs batch_size=, which its sum is divided by")
        return self.batch_size


def one_of(name: str, value: object, kinds: Any) -> None:
    """ArgumentError if a value is not allowed by a `Literal`."""
    if value not in get_args(kinds):
        raise ArgumentError(f"{name} must be one of {', '.join(get_args(kinds))}, got {value!r}")
