"""torch's own clipping functions, with torch's signatures, defaults, results and its 1e-6.

They differ from `torch.nn.utils` only where that loses the gradient: norms are measured in float64, so that
neither half precision nor large float32 values turn a finite gradient into zeros; a tensor that is listed
twice is measured and scaled once; an expanded gradient is scaled once; what has no entries or no gradient is
no error; and a threshold below 0 is refused. Distributed tensors are passed on to torch.
"""

import math
import types
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad as torchs

from clipwise.checks import check_number
from clipwise.namespace import Array
from clipwise.stack import warn
from clipwise.torch import _foreign_clipping
from clipwise.torch._gradients import make_writable
from clipwise.torch.engines import AnyBatch, gather, make_batch
from clipwise.torch.engines._arrays import NUMPY, array_on
from clipwise.torch.engines.reference import values_of

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "get_total_norm"]

TensorOrTensors = Tensor | Iterable[Tensor]

_torchs_clip_grad_norm_ = torchs.clip_grad_norm_
_torchs_clip_grad_value_ = torchs.clip_grad_value_
_torchs_get_total_norm = getattr(torchs, "_get_total_norm", None)
_torchs_clip_grads_with_norm_ = getattr(torchs, "_clip_grads_with_norm_", None)


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
    with torch.no_grad():
        batch = make_batch([t.coalesce() if t.is_sparse else t for t in tensors])
        if _torchs_get_total_norm is not None and _is_distributed(batch):
            theirs: Tensor = _torchs_get_total_norm(tensors, norm_type, error_if_nonfinite, foreach)
            return theirs
        return _narrowed(_total_norm(batch, float(norm_type), error_if_nonfinite), batch)


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
    listed = _listed(parameters)
    _foreign_clipping.hear("clipwise.torch.clip_grad_norm_", listed, max_norm)
    with torch.no_grad():
        batch = _gradients(listed)
        if batch is None:
            return torch.tensor(0.0)
        if _is_distributed(batch):
            return _torchs_clip_grad_norm_(listed, max_norm, norm_type, error_if_nonfinite, foreach)
        norm = _total_norm(batch, float(norm_type), error_if_nonfinite)
        _scale_(batch, max_norm, norm)
        return _narrowed(norm, batch)


def clip_grads_with_norm_(
    parameters: TensorOrTensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale by a norm that is known: `torch.nn.utils.clip_grads_with_norm_`.

    ``g <- g * min(1, max_norm / (total_norm + 1e-6))``.

    Args:
        parameters: a tensor or tensors; those without a gradient are left out.
        max_norm: what the norm may not exceed, at least 0.
        total_norm: of all gradients, such as `get_total_norm` gives it; 0-d.
        foreach: accepted for compatibility.

    Raises:
        ThresholdError: ``max_norm`` is negative or NaN.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grads_with_norm_([weight], 2.5, torch.tensor(5.0))
    >>> weight.grad
    tensor([1.5000, 2.0000])
    """
    max_norm = check_number("max_norm", max_norm)
    listed = _listed(parameters)
    _foreign_clipping.hear("clipwise.torch.clip_grads_with_norm_", listed, max_norm)
    with torch.no_grad():
        batch = _gradients(listed)
        if batch is None:
            return
        if _torchs_clip_grads_with_norm_ is not None and _is_distributed(batch):
            _torchs_clip_grads_with_norm_(listed, max_norm, total_norm, foreach)
        else:
            _scale_(batch, max_norm, array_on(batch.xp, total_norm))


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
    listed = _listed(parameters)
    _foreign_clipping.hear("clipwise.torch.clip_grad_value_", listed, clip_value)
    with torch.no_grad():
        batch = _gradients(listed)
        if batch is None:
            return
        if _is_distributed(batch):
            _torchs_clip_grad_value_(listed, clip_value, foreach)
        else:
            batch.clamp_(-clip_value, clip_value, report=False)


def _listed(parameters: TensorOrTensors) -> list[Tensor]:
    """The parameters as a list."""
    if isinstance(parameters, Tensor):
        return [parameters]
    listed = list(parameters)
    if not listed and isinstance(parameters, types.GeneratorType):
        warn("`parameters` is an empty generator, no gradient clipping will occur.", past=("torch",))
    return listed


def _gradients(parameters: list[Tensor]) -> AnyBatch | None:
    _, batch = gather(parameters)
    if batch is not None and make_writable(parameters, batch):
        _, batch = gather(parameters)
    return batch


def _total_norm(batch: AnyBatch, p: float, error_if_nonfinite: bool) -> Array:
    if p <= 0:  # no norm, but torch's functions take it
        each = torch.stack([torch.linalg.vector_norm(values_of(t), p) for t in batch.tensors])
        norm = array_on(batch.xp, torch.linalg.vector_norm(each, p))
    else:
        with np.errstate(all="ignore"):  # norms of NaN and Inf are part of the business
            norm = batch.norm(p)
    if error_if_nonfinite and not math.isfinite(norm):
        raise RuntimeError(
            f"the total norm of order {p} of the gradients is non-finite, so it cannot be clipped; to scale"
            " by the non-finite norm anyway, set error_if_nonfinite=False"
        )
    return norm


def _scale_(batch: AnyBatch, max_norm: float, norm: Array) -> None:
    batch.scale_(batch.xp.clip(max_norm / (norm + 1e-6), None, 1.0))


def _narrowed(norm: Array, batch: AnyBatch) -> Tensor:
    if batch.xp is NUMPY:
        return torch.scalar_tensor(float(norm), dtype=batch.dtype)
    narrowed: Tensor = norm.to(batch.dtype)
    return narrowed


def _is_distributed(batch: AnyBatch) -> bool:
    tensors: Sequence[Tensor] = batch.tensors
    return any(hasattr(tensors[i], "placements") for i in batch.odd)
