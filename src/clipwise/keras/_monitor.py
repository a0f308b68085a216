"""What clipping did, in the progress bar and the history of ``fit``."""

import math
from typing import Any

import keras

from clipwise.errors import ArgumentError
from clipwise.keras._memory import TOTALS, Memory
from clipwise.keras.attach import clipping_of


class ClipMonitor(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that puts ``clipwise/norm`` and the other metrics into ``History`` and the progress bar.

    All are over the epoch so far, as Keras' own metrics are: means over the steps of the optimizer, so
    ``clipwise/clip_fraction`` of a global norm is the share of clipped steps; ``clipwise/nonfinite`` and
    ``clipwise/skipped`` are counts. They are summed up inside the compiled step, so none is missed with
    ``steps_per_execution`` or ``gradient_accumulation_steps``. Steps that were left out count in these two
    only; an infinite threshold, as in a warm-up, in none, and a mean of nothing but those is inf.

    Args:
        batches: tell the progress bar after each batch, which waits for the device. Otherwise at the end of
            each epoch only.

    Raises:
        ArgumentError: at the beginning of ``fit``: no clip is attached to the model's optimizer.
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
