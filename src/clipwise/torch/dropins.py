"""Drop-in replacements for torch's clipping functions: same signatures, defaults, results and epsilon (1e-6).

They differ from `torch.nn.utils` only where torch's result is wrong or missing:

- Norms are computed in float64, so that neither half precision nor large float32 values turn finite gradients
  into zeros.
- A tensor that is listed twice is measured and scaled once; an expanded gradient is scaled once.
- Empty tensors and tensors without a gradient are no error.
- A negative threshold, and gradients in place of parameters, are refused.
- The norm of DTensors is that of the whole gradient, returned as a plain tensor.

All other messages and errors are torch's, word for word, since programs match them. Under `torch.compile` the
functions are traced, as torch's are.
"""

import math
import types
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad as torchs

from clipwise.checks import check_number
from clipwise.errors import ThresholdError
from clipwise.namespace import Array
from clipwise.stack import warn
from clipwise.torch import _first_calls, _foreign_clipping
from clipwise.torch._gradients import make_writable
from clipwise.torch._parameters import refuse_gradients
from clipwise.torch._placements import is_sharded
from clipwise.torch._sharded_batch import ShardedBatch
from clipwise.torch._traced import Traced
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
        tensors: an iterable of tensors, such as gradients.
        norm_type: order of the norm; ``math.inf`` or ``"inf"`` for the largest magnitude.
        error_if_nonfinite: raise RuntimeError if the norm is NaN or Inf.
        foreach: accepted for compatibility; it does not change the result.

    Returns:
        The norm, 0-d, on the device of the first tensor, in the widest real dtype of the tensors and at least
        float32. (torch returns half precision for half precision, where the norm may overflow to Inf.)

    >>> get_total_norm([torch.tensor([3.0]), torch.tensor([4.0])])
    tensor(5.)
    """
    tensors = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    order = float(norm_type)
    if not tensors:
        return torch.tensor(0.0)
    _ = tensors[0].device  # AttributeError where it is no tensor, as in torch
    for one in tensors:
        if not isinstance(one, Tensor):
            raise TypeError(f"get_total_norm takes tensors, got {one!r}")
    with torch.no_grad():
        if not torch.compiler.is_compiling() and any(map(is_sharded, tensors)):
            batch: AnyBatch | Traced | ShardedBatch = ShardedBatch(tensors, tensors)
        else:
            batch = _batch([t.coalesce() if t.is_sparse else t for t in tensors])
        if _torchs_get_total_norm is not None and _is_distributed(batch):
            theirs: Tensor = _torchs_get_total_norm(tensors, norm_type, error_if_nonfinite, foreach)
            return theirs
        return _narrowed(_total_norm(batch, order, error_if_nonfinite), batch)


def clip_grad_norm_(
    parameters: TensorOrTensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """`torch.nn.utils.clip_grad_norm_`: ``g <- g * min(1, max_norm / (norm + 1e-6))`` over all gradients.

    Args:
        parameters: a tensor or an iterable of tensors; those without a gradient are ignored.
        max_norm: largest norm of all gradients together, at least 0.
        norm_type, error_if_nonfinite, foreach: as for `get_total_norm`.

    Returns:
        The norm before clipping, as `get_total_norm` returns it.

    Raises:
        ThresholdError: ``max_norm`` is negative or NaN (torch would reverse the gradient).
        ParameterError: gradients were passed in place of parameters (torch would do nothing).
        RuntimeError: the norm is not finite and ``error_if_nonfinite`` is set. The gradients are unchanged.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grad_norm_([weight], max_norm=1.0)
    tensor(5.)
    """
    max_norm, order = _threshold("max_norm", max_norm), float(norm_type)
    listed = _listed(parameters)
    _foreign_clipping.hear("clipwise.torch.clip_grad_norm_", listed, max_norm)
    _first_calls.call_of("clipwise.torch.clip_grad_norm_", listed, max_norm)
    with torch.no_grad():
        batch = _gradients("clip_grad_norm_", listed)
        if batch is None:
            return torch.tensor(0.0)
        if _is_distributed(batch):
            return _torchs_clip_grad_norm_(listed, max_norm, norm_type, error_if_nonfinite, foreach)
        norm = _total_norm(batch, order, error_if_nonfinite)
        _scale_(batch, max_norm, norm)
        return _narrowed(norm, batch)


def clip_grads_with_norm_(
    parameters: TensorOrTensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale gradients by a norm that is already known: `torch.nn.utils.clip_grads_with_norm_`.

    ``g <- g * min(1, max_norm / (total_norm + 1e-6))``.

    Args:
        parameters: a tensor or an iterable of tensors; those without a gradient are ignored.
        max_norm: largest norm of all gradients together, at least 0.
        total_norm: norm of all gradients, 0-d, as `get_total_norm` returns it.
        foreach: accepted for compatibility; it does not change the result.

    Raises:
        ThresholdError: ``max_norm`` is negative or NaN.
        ParameterError: gradients were passed in place of parameters (torch would do nothing).
        RuntimeError: ``total_norm`` is not a single number.

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_grads_with_norm_([weight], 2.5, torch.tensor(5.0))
    >>> weight.grad
    tensor([1.5000, 2.0000])
    """
    max_norm = _threshold("max_norm", max_norm)
    listed = _listed(parameters)
    _foreign_clipping.hear("clipwise.torch.clip_grads_with_norm_", listed, max_norm)
    _first_calls.call_of("clipwise.torch.clip_grads_with_norm_", listed, max_norm)
    with torch.no_grad():
        batch = _gradients("clip_grads_with_norm_", listed)
        if batch is None:
            return
        if _torchs_clip_grads_with_norm_ is not None and _is_distributed(batch):
            _torchs_clip_grads_with_norm_(listed, max_norm, total_norm, foreach)
            return
        if not isinstance(total_norm, Tensor):
            total_norm + 1e-6  # torch's own error for what is no number
        elif total_norm.numel() != 1:
            raise RuntimeError(f"total_norm must be one number, got a tensor of shape {total_norm.shape}")
        if is_sharded(total_norm):  # torch's own norm of DTensors
            total_norm = total_norm.full_tensor()  # type: ignore[attr-defined]
        _scale_(
            batch, max_norm, total_norm if torch.compiler.is_compiling() else array_on(batch.xp, total_norm)
        )


def clip_grad_value_(parameters: TensorOrTensors, clip_value: float, foreach: bool | None = None) -> None:
    """Clip every entry to [-clip_value, clip_value]: `torch.nn.utils.clip_grad_value_`.

    Args:
        parameters: a tensor or an iterable of tensors; those without a gradient are ignored.
        clip_value: largest magnitude of an entry, at least 0.
        foreach: accepted for compatibility; it does not change the result.

    Raises:
        ThresholdError: ``clip_value`` is negative or NaN.
        ParameterError: gradients were passed in place of parameters (torch refuses them too).

    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, -0.1])
    >>> clip_grad_value_([weight], 0.5)
    >>> weight.grad
    tensor([ 0.5000, -0.1000])
    """
    clip_value = _threshold("clip_value", clip_value)
    listed = _listed(parameters)
    _foreign_clipping.hear("clipwise.torch.clip_grad_value_", listed, clip_value)
    _first_calls.call_of("clipwise.torch.clip_grad_value_", listed, clip_value)
    with torch.no_grad():
        batch = _gradients("clip_grad_value_", listed)
        if batch is None:
            return
        if _is_distributed(batch):
            _torchs_clip_grad_value_(listed, clip_value, foreach)
        else:
            batch.clamp_(-clip_value, clip_value, report=False)


def _threshold(name: str, value: Any) -> Any:
    """What a norm or an entry may not exceed; while a graph is made, one that is not known yet as it is."""
    if torch.compiler.is_compiling() and isinstance(value, (Tensor, float)):
        if not isinstance(value, Tensor) and not value >= 0.0:
            raise ThresholdError(f"{name} must be a number, at least 0")  # it cannot be written into a text
        return value
    if not isinstance(value, (str, bytes)) and not hasattr(value, "__float__"):
        float(value)  # torch's TypeError
    return check_number(name, value)


def _listed(parameters: TensorOrTensors) -> list[Tensor]:
    """The parameters as a list."""
    if isinstance(parameters, Tensor):
        return [parameters]
    listed = list(parameters)
    if not listed and isinstance(parameters, types.GeneratorType):
        warn("`parameters` is an empty generator, no gradient clipping will occur.", past=("torch",))
    return listed


def _gradients(function: str, parameters: list[Tensor]) -> AnyBatch | Traced | ShardedBatch | None:
    if parameters and is_sharded(parameters[0]) and not torch.compiler.is_compiling():
        gradients = [p.grad for p in parameters]  # at once: an engine would find each of them odd
        refuse_gradients(function, parameters if not any(g is not None for g in gradients) else [])
        return ShardedBatch(parameters, gradients)
    try:
        batch = _gather(parameters)
    except (AttributeError, TypeError):
        for parameter in parameters:  # what is no parameter is told in torch's words
            _ = parameter.grad
        raise
    if not torch.compiler.is_compiling() and _is_spread(parameters, batch):
        refuse_gradients(function, [] if batch is not None else parameters)
        return ShardedBatch(parameters, [p.grad for p in parameters])
    if batch is None:
        refuse_gradients(function, parameters)
    elif make_writable(parameters, batch):
        batch = _gather(parameters)
    return batch


def _is_spread(parameters: list[Tensor], batch: AnyBatch | Traced | None) -> bool:
    """Whether some are spread over ranks, though their gradients may be on other ranks only."""
    if batch is not None and (_is_distributed(batch) or len(batch.tensors) == len(parameters)):
        return _is_distributed(batch)
    return any(map(is_sharded, parameters))


def _gather(parameters: list[Tensor]) -> AnyBatch | Traced | None:
    if not torch.compiler.is_compiling():
        return gather(parameters)[1]
    once: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None and all(parameter is not other for other in once):
            once.append(parameter)
    gradients = [p.grad for p in once if p.grad is not None]
    return Traced(gradients) if gradients else None


def _batch(tensors: list[Tensor]) -> AnyBatch | Traced:
    return Traced(tensors) if torch.compiler.is_compiling() else make_batch(tensors)


def _total_norm(batch: AnyBatch | Traced | ShardedBatch, p: float, error_if_nonfinite: bool) -> Array:
    if p <= 0 and not isinstance(batch, ShardedBatch):  # no norm, but torch's functions take it
        each = torch.stack([torch.linalg.vector_norm(values_of(t), p) for t in batch.tensors])
        norm = torch.linalg.vector_norm(each, p)
        norm = norm if isinstance(batch, Traced) else array_on(batch.xp, norm)
    elif isinstance(batch, Traced):
        norm = batch.norm(p)
    else:
        with np.errstate(all="ignore"):  # norms may be NaN or Inf here
            norm = batch.norm(p)
    if error_if_nonfinite and not (norm.isfinite() if isinstance(norm, Tensor) else math.isfinite(norm)):
        raise RuntimeError(
            f"The total norm of order {p} for gradients from `parameters` is non-finite, so it cannot be"
            " clipped. To disable this error and scale the gradients by the non-finite norm anyway, set"
            " `error_if_nonfinite=False`"
        )
    return norm


def _scale_(batch: AnyBatch | Traced | ShardedBatch, max_norm: float, norm: Array) -> None:
    coefficient = max_norm / (norm + 1e-6)
    if batch.xp is NUMPY:  # numpy's clip of one number takes longer than all else here
        batch.scale_(NUMPY.asarray(1.0) if coefficient > 1.0 else coefficient)
    else:
        batch.scale_(batch.xp.clip(coefficient, None, 1.0))


def _narrowed(norm: Array, batch: AnyBatch | Traced | ShardedBatch) -> Tensor:
    if batch.xp is NUMPY:
        return torch.scalar_tensor(float(norm), dtype=batch.dtype, device="cpu")
    narrowed: Tensor = norm.to(batch.dtype)
    return narrowed


def _is_distributed(batch: AnyBatch | Traced | ShardedBatch) -> bool:
    tensors: Sequence[Tensor] = batch.tensors
    return any(hasattr(tensors[i], "placements") for i in batch.odd)
