"""torch's own clipping functions, with torch's signatures, defaults, results and its 1e-6.

They differ from `torch.nn.utils` only where that loses the gradient: norms are measured in float64, so that
neither half precision nor large float32 values turn a finite gradient into zeros; a tensor that is listed
twice is measured and scaled once; and a threshold below 0 is refused.
"""

import types
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from clipwise.thresholds import check_number
from clipwise.torch._measure import Measure, values_of
from clipwise.torch._parameters import named
from clipwise.torch.engines import reference as engine

__all__ = ["clip_grad_norm_", "clip_grad_value_", "get_total_norm"]

TensorOrTensors = Tensor | Iterable[Tensor]


@torch.no_grad()
def get_total_norm(
    tensors: TensorOrTensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """The norm of all tensors as if they were one vector: `torch.nn.utils.get_total_norm`.

    Args:
        tensors: tensors, such as gradients.
        norm_type: order of the norm; ``math.inf`` or ``"inf"`` for the largest magnitude.
        error_if_nonfinite: raise RuntimeError if the norm is NaN or Inf.
        foreach: accepted for compatibility; what is computed does not depend on it.

    Returns:
        0-d, on the first tensor's device, in the widest real dtype among the tensors and at least float32
        (torch returns half precision for half precision and so an infinite norm).

    >>> get_total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
    tensor(5.)
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not tensors:
        return torch.tensor(0.0)
    order = float(norm_type)
    norm = Measure([t.coalesce() if t.is_sparse else t for t in tensors]).joint(order)
    if error_if_nonfinite and not bool(norm.isfinite()):
        raise RuntimeError(
            f"the total norm of order {order} of the gradients is non-finite, so it cannot be clipped; to"
            " scale by the non-finite norm anyway, set error_if_nonfinite=False"
        )
    return _narrowed(norm, tensors)


@torch.no_grad()
def clip_grad_norm_(
    parameters: TensorOrTensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_`: ``g <- g * min(1, max_norm / (norm + 1e-6))`` over all gradients.

    Args:
        parameters: a tensor or tensors; those without a gradient are left out.
        max_norm: what the norm may not exceed, at least 0.
        norm_type, error_if_nonfinite, foreach: as for `get_total_norm`.

    Returns:
        The norm before clipping, as `get_total_norm` gives it.

    Raises:
        ThresholdError: ``max_norm`` is negative or NaN (torch would turn the gradient round).
        RuntimeError: the norm is not finite and ``error_if_nonfinite``; the gradients are untouched.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm_([weight], max_norm=1.0)
    tensor(5.)
    """
    max_norm = check_number("max_norm", max_norm)
    gradients = _gradients(parameters)
    norm = get_total_norm(gradients, norm_type, error_if_nonfinite, foreach)
    coefficient = (max_norm / (norm.to(engine.wide(norm.device)) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        engine.scale_(values_of(gradient), coefficient)
    return norm


@torch.no_grad()
def clip_grad_value_(parameters: TensorOrTensors, clip_value: float, foreach: bool | None = None) -> None:
    """Bound every entry to [-clip_value, clip_value]: `torch.nn.utils.clip_grad_value_`.

    Args:
        parameters: a tensor or tensors; those without a gradient are left out.
        clip_value: the largest magnitude an entry may keep, at least 0.
        foreach: accepted for compatibility.

    Raises:
        ThresholdError: ``clip_value`` is negative or NaN.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, -0.1])
    >>> clip_grad_value_([weight], 0.5)
    >>> weight.grad
    tensor([ 0.5000, -0.1000])
    """
    clip_value = check_number("clip_value", clip_value)
    for gradient in _gradients(parameters):
        engine.clamp_(values_of(gradient), -clip_value, clip_value)


def _gradients(parameters: TensorOrTensors) -> list[Tensor]:
    if isinstance(parameters, types.GeneratorType):
        parameters = list(parameters)
        if not parameters:
            warnings.warn(
                "`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=4
            )
    found = []
    for parameter in named(parameters).values():
        if parameter.grad is None:
            continue
        if parameter.grad.is_sparse and not parameter.grad.is_coalesced():
            parameter.grad = parameter.grad.coalesce()
        found.append(parameter.grad)
    return found


def _narrowed(norm: Tensor, tensors: list[Tensor]) -> Tensor:
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype.to_real())
    return norm.to(dtype)
