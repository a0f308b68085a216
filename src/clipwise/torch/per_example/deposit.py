"""What a step adds to ``p.grad``: clipped sums, and noise."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipwise.errors import StateError

__all__ = ["add_noise", "deposit", "draw_on"]


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
        if 0 in total.stride():
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


def draw_on(generator: torch.Generator | None, state: Any) -> Tensor | None:
    """Let the generator of the noise go on from a state, if there is one; returns the state before.

    Raises:
        StateError: there is no generator, or the state is none of its kind. Nothing is changed.
    """
    if state is None:
        return None
    if generator is None:
        raise StateError("the state holds that of the noise's generator: pass generator= to per_example")
    before = generator.get_state()
    try:
        generator.set_state(state)
    except (RuntimeError, TypeError) as error:
        raise StateError(f"the state of the noise's generator is of another kind: {error}") from error
    return before


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
