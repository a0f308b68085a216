"""What a threshold may use besides the gradients."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from clipwise.namespace import Array

__all__ = ["StepContext"]


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a policy may use besides the gradients; see `clipwise.thresholds.Observation`.

    Attributes:
        moment_ratios: by name of the tensor.
    """

    step: Array = 0.0
    learning_rate: Array | None = None
    momentum: Array | None = None
    scale_free: bool = False
    loss: Array | None = None
    moment_ratios: Mapping[str, Array] = field(default_factory=dict)
