"""Bounded activations as modules, and bounds for the activations of an existing model.

The functions are in `clipwise.functional.activations`, the Keras layers in `clipwise.keras.layers`.
"""

from clipwise.torch.activations.modules import (
    PACT,
    ClampedSwiGLU,
    ClippedReLU,
    HardTanh,
    SoftCap,
)
from clipwise.torch.activations.wrapping import ClippedActivations, Saturation, clip_activations

__all__ = [
    "PACT",
    "ClampedSwiGLU",
    "ClippedActivations",
    "ClippedReLU",
    "HardTanh",
    "Saturation",
    "SoftCap",
    "clip_activations",
]
