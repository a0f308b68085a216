"""A report with its values as torch's tensors, whatever the step was computed on."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipwise.report import ClipReport

_NUMBERS = ("norm", "norm_after", "threshold", "clip_fraction", "nonfinite", "direction")


def in_torch(report: ClipReport, **changes: Any) -> ClipReport:
    """The same report, with changes, of 0-d tensors on the gradients' device."""
    values = vars(report) | changes
    if not isinstance(report.norm, Tensor):
        numbers = [np.nan if values[name] is None else values[name] for name in _NUMBERS]
        # One tensor for all numbers, taken apart: several would cost more than clipping a small model.
        tensors = torch.from_numpy(np.array(numbers, dtype=np.float64)).unbind()
        values |= zip(_NUMBERS, tensors, strict=True)
        if report.direction is None and changes.get("direction") is None:
            values["direction"] = None
        values["clipped"] = torch.from_numpy(np.array(values["clipped"]))
        if values["tensor_norms"] is not None:
            values["tensor_norms"] = torch.from_numpy(values["tensor_norms"])
        if report.parts:
            values["parts"] = {name: in_torch(part) for name, part in report.parts.items()}
    made = ClipReport.__new__(ClipReport)  # its __init__, frozen, sets one field after the other
    vars(made).update(values)
    return made
