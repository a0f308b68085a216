"""Clipping in JAX: `clip` is a pure function; `transform` and `attach` work with optax.

All back ends use the same names.
"""

from clipwise.functional.clipping import ClipState
from clipwise.jax.attach import AttachState, attach
from clipwise.jax.functional import clip, init
from clipwise.jax.penalty import gradient_penalty
from clipwise.jax.per_example import PerExample, per_example
from clipwise.jax.reports import report, updates_report, weights_report
from clipwise.jax.transform import TransformState, transform
from clipwise.jax.updates import UpdatesState
from clipwise.jax.weights import WeightsState, clip_weights

__all__ = [
    "AttachState",
    "ClipState",
    "PerExample",
    "TransformState",
    "UpdatesState",
    "WeightsState",
    "attach",
    "clip",
    "clip_weights",
    "gradient_penalty",
    "init",
    "per_example",
    "report",
    "transform",
    "updates_report",
    "weights_report",
]
