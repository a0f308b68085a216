"""What a threshold may know of a step besides its gradients."""

from dataclasses import dataclass

from clipwise.namespace import Array

__all__ = ["StepContext"]


@dataclass(frozen=True, kw_only=True)
class StepContext:
    """What a policy may know besides the gradients; see `clipwise.thresholds.Observation`."""

    step: Array = 0.0
    learning_rate: Array | None = None
    momentum: Array | None = None
    scale_free: bool = False
    loss: Array | None = None
