"""The figures of every step, left on the device until there are enough of them to be worth waiting for."""

import math

import torch
from torch import Tensor

from clipwise.lab.record import STEP_COLUMNS
from clipwise.report import ClipReport

__all__ = ["StepRecorder"]


class StepRecorder:
    """Keeps each step's loss and report as device values and turns them into plain numbers in one transfer.

    Reading a single number of every step would make the host wait for a GPU at every step.

    Attributes:
        columns: the lists of a `RunRecord`'s ``steps``, which `flush` extends.
        latest: the last row that was flushed, by column.
    """

    def __init__(self, columns: dict[str, list[float]]) -> None:
        self.columns = columns
        self.latest: dict[str, float] = {}
        self._pending: list[Tensor] = []

    def add(self, loss: Tensor, report: ClipReport | None) -> None:
        """Note a step; a report of None means that a gradient scaler dropped it, its gradient not finite."""
        if report is None:
            values = (loss, math.nan, 0.0, math.nan, 0.0, 1.0)
        else:
            values = (loss, *(getattr(report, name) for name in STEP_COLUMNS[1:]))
        # float32 holds the norms a GPU without float64 can report; elsewhere nothing is rounded.
        dtype = torch.float32 if loss.device.type == "mps" else torch.float64
        rows = [torch.as_tensor(value, device=loss.device).detach().to(dtype).reshape(()) for value in values]
        self._pending.append(torch.stack(rows))

    def flush(self) -> None:
        """Move what was noted to ``columns``; this waits for the device."""
        if not self._pending:
            return
        columns = torch.stack(self._pending, dim=1).tolist()
        self._pending.clear()
        for name, values in zip(STEP_COLUMNS, columns, strict=True):
            self.columns[name].extend(values)
        self.latest = {name: column[-1] for name, column in self.columns.items()}
