"""The functions of `clipwise.functional.activations` as modules.

A module that keeps the shape of its input has the attribute ``bounds``, its smallest and largest output, by
which `clip_activations` counts how often it saturates.
"""

import torch
from torch import Tensor, nn

from clipwise.checks import bounds_of, number, positive, whole
from clipwise.functional.activations import (
    clamped_swiglu,
    clipped_relu,
    hard_tanh,
    pact,
    soft_cap,
    split_gate_up,
)

__all__ = ["PACT", "ClampedSwiGLU", "ClippedReLU", "HardTanh", "SoftCap"]


class ClippedReLU(nn.Module):
    """``min(max(x, 0), bound)``, see `clipwise.functional.activations.clipped_relu`.

    >>> ClippedReLU(6.0)(torch.tensor([-1.0, 0.5, 7.0]))
    tensor([0.0000, 0.5000, 6.0000])
    """

    def __init__(self, bound: float = 6.0) -> None:
        super().__init__()
        self.bound = positive("bound", bound)

    @property
    def bounds(self) -> tuple[float, float]:
        return 0.0, self.bound

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = clipped_relu(x, self.bound)
        return found

    def extra_repr(self) -> str:
        return f"{self.bound:g}"


class HardTanh(nn.Module):
    """``min(max(x, low), high)``, see `clipwise.functional.activations.hard_tanh`.

    >>> HardTanh(-1.0, 2.0)(torch.tensor([-3.0, 0.5, 7.0]))
    tensor([-1.0000,  0.5000,  2.0000])
    """

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        super().__init__()
        self.low, self.high = bounds_of(low, high)

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = hard_tanh(x, self.low, self.high)
        return found

    def extra_repr(self) -> str:
        return f"{self.low:g}, {self.high:g}"


class SoftCap(nn.Module):
    """``cap * tanh(x / cap)``, see `clipwise.functional.activations.soft_cap`.

    >>> SoftCap(30.0)(torch.tensor([0.0, 1000.0]))
    tensor([ 0., 30.])
    """

    def __init__(self, cap: float) -> None:
        super().__init__()
        self.cap = positive("cap", cap, finite=True)

    @property
    def bounds(self) -> tuple[float, float]:
        return -self.cap, self.cap

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = soft_cap(x, self.cap)
        return found

    def extra_repr(self) -> str:
        return f"{self.cap:g}"


class PACT(nn.Module):
    """``min(max(x, 0), alpha)`` with a learned alpha, see `clipwise.functional.activations.pact`.

    The paper applies the same weight decay to alpha as to the weights. Without weight decay, only the loss
    keeps alpha small. Nothing keeps it above 0: if it comes close, clip it after the step.

    Args:
        alpha: initial value, finite and above 0. The paper starts well above the first activations.
        channels: number of bounds; None for one bound for all entries.
        axis: the channel axis of the input.

    Attributes:
        alpha: the parameter, of shape ``(channels,)`` or ``()``.

    Raises:
        ArgumentError: alpha is not a finite number above 0, or channels is not a whole number above 0 or
            None.

    >>> act = PACT(2.0, channels=3)
    >>> act(torch.tensor([[-1.0, 1.0, 9.0]])).sum().backward()
    >>> act.alpha.grad
    tensor([0., 0., 1.])
    """

    def __init__(self, alpha: float = 10.0, *, channels: int | None = None, axis: int = 1) -> None:
        super().__init__()
        start = positive("alpha", alpha, finite=True)
        if channels is not None:
            whole("channels", channels, allowed="a whole number above 0 or None")
        self.alpha = nn.Parameter(torch.full(() if channels is None else (channels,), start))
        self.axis = axis

    @property
    def bounds(self) -> tuple[float, Tensor]:
        return 0.0, self.alpha

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = pact(x, self.alpha, axis=self.axis if self.alpha.ndim else None)
        return found

    def extra_repr(self) -> str:
        return f"channels={len(self.alpha)}, axis={self.axis}" if self.alpha.ndim else ""


class ClampedSwiGLU(nn.Module):
    """`clipwise.functional.activations.clamped_swiglu` of the two halves of the last axis.

    The input has the shape ``(..., 2 * width)``, the output ``(..., width)``.

    Args:
        limit, alpha, offset: as for `clipwise.functional.activations.clamped_swiglu`.
        interleaved: True if gate and up alternate along the axis, as in gpt-oss; False if the gates come
            first.

    >>> ClampedSwiGLU()(torch.zeros(2, 8)).shape
    torch.Size([2, 4])
    """

    def __init__(
        self, limit: float = 7.0, alpha: float = 1.702, offset: float = 1.0, *, interleaved: bool = True
    ) -> None:
        super().__init__()
        self.limit = positive("limit", limit)
        self.alpha = positive("alpha", alpha, finite=True)
        self.offset = number("offset", offset)
        self.interleaved = bool(interleaved)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = split_gate_up(x, interleaved=self.interleaved)
        found: Tensor = clamped_swiglu(gate, up, limit=self.limit, alpha=self.alpha, offset=self.offset)
        return found

    def extra_repr(self) -> str:
        return f"{self.limit:g}, {self.alpha:g}, {self.offset:g}, interleaved={self.interleaved}"
