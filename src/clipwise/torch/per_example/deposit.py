"""What a step adds to ``p.grad``: clipped sums, and noise."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["add_noise", "deposit"]


def deposit(
    parameters: dict[str, Tensor],
    totals: Sequence[Tensor | None],
    divisor: int,
    overflow: Tensor | None = None,
) -> None:
    """Add sums, divided by a number, to the gradients.

    Args:
        overflow: whether a gradient scaler is to find NaN in all of them, 0-d.
    """
    for parameter, total in zip(parameters.values(), totals, strict=True):
        if total is None:
            continue
        if any(
            stride == 0 and length > 1 for stride, length in zip(total.stride(), total.shape, strict=True)
        ):
            total = total.contiguous()  # a number seen as many cannot be written into
        if overflow is not None:
            total.masked_fill_(overflow, math.nan)
        _accumulate(parameter, total if divisor == 1 else total.div_(divisor))


def add_noise(parameters: dict[str, Tensor], deviation: Tensor, generator: torch.Generator | None) -> None:
    """Add Gaussian noise of this standard deviation, 0-d, to the gradients."""
    for parameter in parameters.values():
        dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
        where = parameter.device if generator is None else generator.device
        noise = torch.randn(parameter.shape, generator=generator, device=where, dtype=dtype)
        _accumulate(parameter, noise.to(parameter.device).mul_(deviation.to(dtype)))


@torch.no_grad()
def _accumulate(parameter: Tensor, value: Tensor) -> None:
    """Add to ``parameter.grad``, as a backward pass does; the value is the gradient where there was none."""
    value = value.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = value
    elif parameter.grad.is_sparse:
        parameter.grad = parameter.grad + value
    else:
        parameter.grad.add_(value)
