"""Clipping in JAX: `clip` is a pure function, `transform` and `attach` are for optax.

Every back end offers the same names.
"""

from clipwise.functional.clipping import ClipState
from clipwise.jax._reports import report
from clipwise.jax.attach import AttachState, attach
from clipwise.jax.functional import clip, init
from clipwise.jax.transform import TransformState, transform

__all__ = ["AttachState", "ClipState", "TransformState", "attach", "clip", "init", "report", "transform"]
