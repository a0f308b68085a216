"""Clipping metrics in the progress bar and the history of ``fit``."""

import math
from typing import Any

import keras

from clipwise.errors import ArgumentError
from clipwise.keras._memory import TOTALS, Memory
from clipwise.keras.attach import clipping_of


class ClipMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that adds ``clipwise/norm`` and the other metrics to ``History`` and the progress bar.

    Like Keras' own metrics, all values are over the epoch so far. They are means over the optimizer's steps,
    so ``clipwise/clip_fraction`` of a global norm is the share of clipped steps; ``clipwise/nonfinite`` and
    ``clipwise/skipped`` are counts. The sums are computed inside the compiled step, so no step is missed with
    ``steps_per_execution`` or ``gradient_accumulation_steps``. Skipped steps enter only these two counts. An
    infinite threshold, as in a warm-up, enters no mean, unless all thresholds are infinite.

    Args:
        batches: also update the progress bar after each batch, which needs a host-device sync. By default it
            is updated at the end of each epoch only.

    Raises:
        ArgumentError: at the start of ``fit``: no clip is attached to the model's optimizer.
    """

    def __init__(self, *, batches: bool = True) -> None:
        super().__init__()
        self.batches = batches

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            raise ArgumentError("ClipMonitor needs a model that is compiled with an optimizer")
        clipping_of(optimizer)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        memory = self._memory()
        if memory is not None:
            memory.clear_totals()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if self.batches and logs is not None:
            logs.update(self._values())

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if logs is not None:
            logs.update(self._values())

    def _memory(self) -> Memory | None:
        return clipping_of(self.model.optimizer).memory  # on JAX asking for the model brings its variables up

    def _values(self) -> dict[str, float]:
        memory = self._memory()
        if memory is None:
            return {}
        sums, counts = memory.totals()
        values = {}
        for name, total, count in zip(TOTALS, sums.tolist(), counts.tolist(), strict=True):
            if name in ("nonfinite", "skipped"):
                values[name] = total
            elif count:
                values[name] = total / count
            elif name != "direction":  # unknown for many clips
                values[name] = math.inf if name == "threshold" else math.nan
        return {f"clipwise/{name}": value for name, value in values.items()}
