"""Clipping in Keras 3, on JAX, PyTorch and TensorFlow.

::

    optimizer = clipwise.keras.attach(keras.optimizers.Adam(1e-3), clipwise.clip_by_global_norm(1.0))
    model.compile(optimizer, loss="mse")

Importing it is also what lets ``keras.models.load_model`` find clipped optimizers.
"""

from typing import NoReturn

from clipwise.keras import layers
from clipwise.keras._monitor import ClipMonitor
from clipwise.keras.attach import attach, detach, observe, report, updates_report, weights_report
from clipwise.keras.clip_values import ClipValues
from clipwise.keras.constraints import ClipConstraint
from clipwise.keras.penalty import gradient_penalty

__all__ = [
    "ClipConstraint",
    "ClipMonitor",
    "ClipValues",
    "attach",
    "detach",
    "gradient_penalty",
    "layers",
    "observe",
    "report",
    "updates_report",
    "weights_report",
]


def __getattr__(name: str) -> NoReturn:
    if name == "per_example":
        raise AttributeError(
            "clipwise.keras clips no single examples: fit hands an optimizer one gradient of the whole batch."
            " per_example is in clipwise.torch, clipwise.jax and clipwise.tensorflow, for a loop of your own"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
