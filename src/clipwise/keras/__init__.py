"""Clipping in Keras 3, on JAX, PyTorch and TensorFlow.

::

    optimizer = clipwise.keras.attach(keras.optimizers.Adam(1e-3), clipwise.clip_by_global_norm(1.0))
    model.compile(optimizer, loss="mse")

Importing it is also what lets ``keras.models.load_model`` find clipped optimizers.
"""

from clipwise.keras._monitor import ClipMonitor
from clipwise.keras.attach import attach, detach, observe, report

__all__ = ["ClipMonitor", "attach", "detach", "observe", "report"]
