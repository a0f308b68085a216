"""Converts a report's values to torch tensors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipwise.functional.held import Held
from clipwise.functional.merging import changed
from clipwise.report import ClipReport

_NUMBERS = ("norm", "norm_after", "threshold", "clip_fraction", "nonfinite", "direction")


def in_torch(report: ClipReport) -> ClipReport:
    """The same report with 0-d tensors on the device of the gradients."""
    if isinstance(report.norm, Tensor):
        return report
    values = vars(report)
    numbers = [np.nan if values[name] is None else values[name] for name in _NUMBERS]
    # One tensor for all numbers, taken apart: several would cost more than clipping a small model.
    tensors = _tensors(numbers)
    changes: dict[str, Any] = dict(zip(_NUMBERS, tensors, strict=True))
    if report.direction is None:
        changes["direction"] = None
    changes["clipped"] = torch.from_numpy(np.array(report.clipped))
    if report.tensor_norms is not None:
        changes["tensor_norms"] = torch.from_numpy(report.tensor_norms)
    if report.held:
        changes["held"] = Held(tuple(report.held), lambda: _tensors(list(report.held.values())))
    if report.parts:
        changes["parts"] = {name: in_torch(part) for name, part in report.parts.items()}
    return changed(report, changes)


def _tensors(numbers: Sequence[float]) -> tuple[Tensor, ...]:
    return torch.from_numpy(np.array(numbers, dtype=np.float64)).unbind()
