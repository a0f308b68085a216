"""A module that brings the inputs of a model within bounds, learnt once and saved with its weights."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipwise.errors import ArgumentError

__all__ = ["ClipValues"]


class ClipValues(nn.Module):
    """``y = min(max(x, low), high)``, for all values alike or for each feature of the last axis.

    The bounds are buffers: they move with the model and are part of its ``state_dict``. NaN stays NaN. The
    gradient is that of `torch.clamp`: 1 from ``low`` to ``high``, 0 outside.

    Args:
        low, high: a number, or ``(F,)`` one a feature, such as ``lower_`` and ``upper_`` of a fitted
            `clipwise.data.Clipper`; None, -inf and inf where there is no bound. Kept in float32, or in
            float64 where they come as a float64 tensor.

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
        first, second = _bound("low", low, -math.inf), _bound("high", high, math.inf)
        if first.ndim and second.ndim and first.shape != second.shape:
            raise ArgumentError(f"low holds {len(first)} bounds and high {len(second)}: give as many of both")
        width = torch.promote_types(first.dtype, second.dtype)
        first, second = torch.broadcast_tensors(first.to(width), second.to(width))
        if bool((first > second).any()):
            i = int((first > second).reshape(-1).nonzero()[0])
            pair = f"low={float(first.reshape(-1)[i])!r} is above high={float(second.reshape(-1)[i])!r}"
            where = f" of feature {i}" if first.ndim else ""
            raise ArgumentError(f"the bounds{where} are crossed, {pair}")
        self.register_buffer("low", first.clone())
        self.register_buffer("high", second.clone())

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


def _bound(name: str, value: Any, missing: float) -> Tensor:
    """One bound, or ``(F,)`` of them, None replaced."""
    if value is None:
        value = missing
    elif isinstance(value, Sequence) and not isinstance(value, str):
        value = [missing if one is None else one for one in value]
    try:
        bound = (
            value.detach().clone()
            if isinstance(value, Tensor)
            else torch.as_tensor(value, dtype=torch.float32)
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{name} must be a number or one a feature, got {value!r}") from error
    if bound.dtype != torch.float64:
        bound = bound.to(torch.float32)
    if bound.ndim > 1 or not bound.numel() or bool(bound.isnan().any()):
        raise ArgumentError(f"{name} must be a number or one a feature, none of them NaN, got {value!r}")
    return bound
