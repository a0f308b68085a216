"""Clipping in PyTorch: `attach` for a training loop, `clip_` for one step, and torch's own names.

Every back end offers the same names; here the functions with a trailing underscore work in place.
"""

from clipwise.torch.attach import AttachedClipper, attach
from clipwise.torch.clipper import Clipper
from clipwise.torch.dropins import clip_grad_norm_, clip_grad_value_, get_total_norm
from clipwise.torch.functional import clip_

__all__ = [
    "AttachedClipper",
    "Clipper",
    "attach",
    "clip_",
    "clip_grad_norm_",
    "clip_grad_value_",
    "get_total_norm",
]
