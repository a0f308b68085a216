"""The functions whose uses have a formula; each is given what is seen, the result and the arguments."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clipwise.torch.per_example.affine import AffineUse
from clipwise.torch.per_example.convolution import ConvUse, Geometry
from clipwise.torch.per_example.embedding import EmbeddingUse
from clipwise.torch.per_example.linear import LinearUse
from clipwise.torch.per_example.seen import Seen
from clipwise.torch.per_example.uses import NotFollowed, Use

__all__ = ["KNOWN"]


def _linear(
    seen: Seen, found: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Use | None:
    return _matrix(seen, input, weight, bias, transposed=False)


def _addmm(
    seen: Seen, found: Tensor, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Use | None:
    if beta != 1 or alpha != 1 or id(mat2) not in seen.by_id or input.ndim != 1:
        return None
    return _matrix(seen, mat1, mat2, input, transposed=True)


def _matrix(seen: Seen, x: Tensor, weight: Tensor, bias: Tensor | None, *, transposed: bool) -> Use | None:
    if id(x) in seen.by_id or not seen.follows(x) or weight.ndim != 2 or x.ndim < 2:
        return None
    time_first = seen.time_first
    if time_first:
        fits = (x.ndim == 3 and x.shape[1] == seen.size) or (x.ndim == 2 and not len(x) % seen.size)
    else:
        # Rows of several positions are taken for those of one example after the other.
        fits = len(x) > 0 and not len(x) % seen.size
    if not fits:
        raise NotFollowed(
            f"{seen.name_of(weight, bias)!r} is applied to a tensor of shape {tuple(x.shape)}, which does not"
            f" have the {seen.size} examples along axis 0"
        )
    if not time_first:
        seen.verified.rows(seen.name_of(weight, bias), len(x) // seen.size, seen.size)
    weights, roles = seen.roles(weight, bias)
    return LinearUse(weights, roles, seen.size, x, transposed=transposed, time_first=time_first)


def _embedding(
    seen: Seen,
    found: Tensor,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Use | None:
    if max_norm is not None or scale_grad_by_freq:
        raise NotFollowed(f"{seen.name_of(weight)!r} has max_norm or scale_grad_by_freq")
    if not seen.follows(input) and not (
        input.ndim > 1
        and seen.verified.has_examples(("embedding", seen.name_of(weight)), len(input), seen.size)
    ):
        return None  # the positions of all examples, say
    if not input.ndim or len(input) != seen.size or id(weight) not in seen.by_id:
        raise NotFollowed(f"{seen.name_of(weight)!r} is applied to indices without the examples along axis 0")
    return EmbeddingUse(seen.by_id[id(weight)], seen.size, input, padding_idx)


def _matmul(
    seen: Seen,
    found: Tensor,
    input: Tensor,
    other: Tensor | None = None,
    *,
    mat2: Tensor | None = None,
    tensor2: Tensor | None = None,
) -> Use | None:
    # The second argument has three names: of torch.matmul, of mm, and of the method matmul.
    weight = next((one for one in (other, mat2, tensor2) if id(one) in seen.by_id), None)
    return None if weight is None else _matrix(seen, input, weight, None, transposed=True)


def _conv(
    seen: Seen,
    found: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Use | None:
    axes = weight.ndim - 2
    stride, dilation = _each(stride, axes), _each(dilation, axes)
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if any(one % 2 for one in total):
            return None
        padding = [one // 2 for one in total]
    return _convolved(seen, input, weight, bias, Geometry(stride, _each(padding, axes), dilation, groups))


def _conv_transpose(
    seen: Seen,
    found: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Use | None:
    axes = weight.ndim - 2
    stride, padding, dilation = (_each(one, axes) for one in (stride, padding, dilation))
    geometry = Geometry(stride, padding, dilation, groups, True, _each(output_padding, axes))
    return _convolved(seen, input, weight, bias, geometry)


def _convolved(seen: Seen, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Use | None:
    if not seen.follows(x) or x.ndim != weight.ndim or len(x) != seen.size:
        return None
    weights, roles = seen.roles(weight, bias)
    return ConvUse(weights, roles, seen.size, x, weight, geometry)


def _layer_norm(
    seen: Seen,
    found: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Use | None:
    def normal(x: Tensor) -> Tensor:
        return F.layer_norm(x, normalized_shape, None, None, eps)

    return _affine(seen, input, weight, bias, normal, range(1, input.ndim - len(normalized_shape)))


def _rms_norm(
    seen: Seen,
    found: Tensor,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Use | None:
    def normal(x: Tensor) -> Tensor:
        return F.rms_norm(x, list(normalized_shape), None, eps)

    return _affine(seen, input, weight, None, normal, range(1, input.ndim - len(normalized_shape)))


def _group_norm(
    seen: Seen,
    found: Tensor,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Use | None:
    def normal(x: Tensor) -> Tensor:
        return F.group_norm(x, num_groups, None, None, eps)

    return _affine(seen, input, weight, bias, normal, range(2, input.ndim))


def _affine(
    seen: Seen, x: Tensor, weight: Tensor | None, bias: Tensor | None, normal: Any, middle: Sequence[int]
) -> Use | None:
    if seen.time_first or not seen.follows(x) or len(x) != seen.size:
        return None
    weights, roles = seen.roles(weight, bias)
    return AffineUse(weights, roles, seen.size, x, normal, middle)


def _each(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else [*value] * (axes if len(value) == 1 else 1)


KNOWN: dict[Any, Callable[..., Use | None]] = {
    F.linear: _linear,
    torch.addmm: _addmm,
    torch.matmul: _matmul,
    Tensor.matmul: _matmul,
    torch.mm: _matmul,
    Tensor.mm: _matmul,
    F.embedding: _embedding,
    torch.conv1d: _conv,
    torch.conv2d: _conv,
    torch.conv3d: _conv,
    torch.conv_transpose1d: _conv_transpose,
    torch.conv_transpose2d: _conv_transpose,
    torch.conv_transpose3d: _conv_transpose,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
}
