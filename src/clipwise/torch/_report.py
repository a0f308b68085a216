"""A report with its values as torch's tensors, whatever the step was computed on."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipwise.report import ClipReport

__all__ = ["in_torch"]

_NUMBERS = ("norm", "norm_after", "threshold", "clip_fraction", "nonfinite", "direction")


def in_torch(report: ClipReport) -> ClipReport:
    """The same report, of 0-d tensors on the gradients' device."""
    if isinstance(report.norm, Tensor):
        return report
    values = [np.nan if (value := getattr(report, name)) is None else value for name in _NUMBERS]
    # One tensor for all numbers, taken apart: several would cost more than the clipping of a small model.
    tensors = torch.from_numpy(np.array(values, dtype=np.float64)).unbind()
    numbers: dict[str, Any] = dict(zip(_NUMBERS, tensors, strict=True))
    if report.direction is None:
        del numbers["direction"]
    norms = report.tensor_norms
    return dataclasses.replace(
        report,
        **numbers,
        clipped=torch.from_numpy(np.array(report.clipped)),
        tensor_norms=None if norms is None else torch.from_numpy(norms),
        parts={name: in_torch(part) for name, part in report.parts.items()},
    )
