"""What activations ask of PyTorch."""

import math
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "arange",
    "as_array",
    "between",
    "is_boolean",
    "is_floating",
    "is_own",
    "largest",
    "like",
    "maximum",
    "products",
    "reshape",
    "sigmoid",
    "smallest",
    "spread",
    "tanh",
    "where",
    "widened",
]

maximum, reshape, where, sigmoid, tanh = torch.maximum, torch.reshape, torch.where, torch.sigmoid, torch.tanh


def is_own(x: Any) -> bool:
    return isinstance(x, Tensor)


def as_array(x: Tensor) -> Tensor:
    return x


def is_floating(x: Tensor) -> bool:
    return x.is_floating_point()


def is_boolean(x: Tensor) -> bool:
    return x.dtype == torch.bool


def like(value: Any, x: Tensor) -> Tensor:
    if isinstance(value, int | float):  # filled on the device: no copy waits for the host
        return torch.full((), value, dtype=x.dtype, device=x.device)
    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def spread(bound: Tensor, x: Tensor) -> Tensor:
    if x.dtype.itemsize > 2 or not (bound.requires_grad and torch.is_grad_enabled()):
        return like(bound, x)
    return bound.to(x.device, torch.float32).expand_as(x).to(x.dtype)


def between(x: Tensor, low: float, high: float) -> Tensor:
    largest = torch.finfo(x.dtype).max  # beyond it a number is refused and not made infinite
    low, high = (-math.inf if low < -largest else low), (math.inf if high > largest else high)
    return torch.nn.functional.hardtanh(x, low, high)  # one kernel, and torch's own ReLU6 for 0 and 6


def arange(stop: int, x: Tensor) -> Tensor:
    return torch.arange(stop, device=x.device)


def largest(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    return x.amax(axes)


def smallest(x: Tensor, axis: int) -> Tensor:
    return x.amin(axis)


def widened(x: Tensor, other: Tensor) -> Tensor:
    return x.to(torch.promote_types(torch.promote_types(x.dtype, other.dtype), torch.float32))


def products(q: Tensor, k: Tensor) -> Tensor:
    with torch.autocast(q.device.type, enabled=False):  # which would multiply in a narrow type again
        return q @ k.mT
