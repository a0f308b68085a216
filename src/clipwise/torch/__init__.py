"""Clipping in PyTorch: `attach` for training loops, `clip_` for one step, and drop-in replacements.

All back ends use the same names. Functions whose name ends in an underscore change their argument in place.
"""

from clipwise.torch.activations import (
    PACT,
    ClampedSwiGLU,
    ClippedReLU,
    HardTanh,
    SoftCap,
    clip_activations,
)
from clipwise.torch.attach import AttachedClipper, attach
from clipwise.torch.attention import QKClip
from clipwise.torch.clip_values import ClipValues
from clipwise.torch.clipper import Clipper
from clipwise.torch.dropins import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from clipwise.torch.engines import engine
from clipwise.torch.functional import clip_
from clipwise.torch.patching import Patch, patch
from clipwise.torch.penalty import gradient_penalty
from clipwise.torch.per_example import ExampleReport, PerExample, per_example
from clipwise.torch.updates import UpdateClipper
from clipwise.torch.weights import WeightClipper

__all__ = [
    "PACT",
    "AttachedClipper",
    "ClampedSwiGLU",
    "ClipValues",
    "ClippedReLU",
    "Clipper",
    "ExampleReport",
    "HardTanh",
    "Patch",
    "PerExample",
    "QKClip",
    "SoftCap",
    "UpdateClipper",
    "WeightClipper",
    "attach",
    "clip_",
    "clip_activations",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "engine",
    "get_total_norm",
    "gradient_penalty",
    "patch",
    "per_example",
]
