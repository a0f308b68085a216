"""A module that brings the inputs of a model within bounds, learnt once and saved with its weights."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clipwise.checks import feature_bounds
from clipwise.errors import ArgumentError
from clipwise.functional.single_values import warn_of_single_values

__all__ = ["ClipValues"]


class ClipValues(nn.Module):
    """``y = min(max(x, low), high)``, for all values alike or for each feature of the last axis.

    The bounds are buffers: they move with the model and are part of its ``state_dict``. NaN stays NaN. The
    gradient is that of `torch.clamp`: 1 from ``low`` to ``high``, 0 outside.

    Args:
        low, high: a number, or ``(F,)`` one a feature, such as ``lower_`` and ``upper_`` of a fitted
            `clipwise.data.Clipper`; None, -inf and inf where there is no bound. Kept in float32, or in
            float64 where they come as a float64 tensor.

    Warns:
        UserWarning: a feature's two bounds are the same, as where a rule was given a mostly constant column.

    Raises:
        ArgumentError: a bound is NaN or no number, the two are crossed or differ in length; an input is not
            of floats, or its last axis does not fit.

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
        """The values of any shape within the bounds, in their own type."""
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
