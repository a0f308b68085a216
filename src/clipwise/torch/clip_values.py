"""A module that clips the inputs of a model to bounds that are saved with its weights."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipwise.checks import feature_bounds
from clipwise.errors import ArgumentError
from clipwise.functional.single_values import warn_of_single_values

__all__ = ["ClipValues"]


class ClipValues(nn.Module):
    """``y = min(max(x, low), high)``, with one bound for all values or one for each feature of the last axis.

    The bounds are buffers: they move with the model and are part of its ``state_dict``. NaN stays NaN. The
    gradient is that of `torch.clamp`: 1 from ``low`` to ``high``, 0 outside.

    Args:
        low, high: a number, or an array ``(F,)`` with one bound per feature, such as ``lower_`` and
            ``upper_`` of a fitted `clipwise.data.Clipper`; None, -inf or inf for no bound. Stored in float32,
            or in float64 if given as a float64 tensor.

    Warns:
        UserWarning: the two bounds of a feature are equal, so that all of its values become the same. This
            happens if bounds were learned from a column that is mostly constant.

    Raises:
        ArgumentError: a bound is NaN or not a number, low is above high, or they differ in length; an input
            is not floating-point, or its last axis does not fit.

    >>> ClipValues([-1.0, None], [1.0, 5.0])(torch.tensor([[-3.0, -3.0], [0.5, 9.0]]))
    tensor([[-1.0000, -3.0000],
            [ 0.5000,  5.0000]])
    """

    low: Tensor
    high: Tensor

    def __init__(self, low: Any = None, high: Any = None) -> None:
        super().__init__()
        tensors = [bound for bound in (low, high) if isinstance(bound, Tensor)]
        wide = torch.float64 in [bound.dtype for bound in tensors]
        both = feature_bounds(_plain(low), _plain(high), np.float64 if wide else np.float32)
        warn_of_single_values(*both)
        device = tensors[0].device if tensors else None
        first, second = (torch.tensor(bound, device=device) for bound in np.broadcast_arrays(*both))
        self.register_buffer("low", first)
        self.register_buffer("high", second)

    def forward(self, x: Tensor) -> Tensor:
        """Clip an input of any shape ``(..., F)``; the dtype is kept."""
        if not x.is_floating_point():
            raise ArgumentError(f"expected floating-point values, got {x.dtype}")
        if self.low.ndim and (not x.ndim or x.shape[-1] != self.low.shape[0]):
            raise ArgumentError(
                f"bounds for {self.low.shape[0]} features do not fit an input of shape {tuple(x.shape)}"
            )
        return torch.clamp(x, self.low.to(x.dtype), self.high.to(x.dtype))

    def extra_repr(self) -> str:
        return f"low={self.low.tolist()}, high={self.high.tolist()}"


def _plain(bound: Any) -> Any:
    """A tensor as numpy, which has no bfloat16."""
    return bound.detach().double().cpu().numpy() if isinstance(bound, Tensor) else bound
