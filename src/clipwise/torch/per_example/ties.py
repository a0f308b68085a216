"""Gradients of examples that are known as products of two factors: norms without the products."""

import math
from collections.abc import Callable, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple

import torch
from torch import Tensor

from clipwise.torch.engines._arrays import wide
from clipwise.torch.per_example.rows import chunks, squared, widened

__all__ = ["Factors", "joined", "largest", "product_squares", "summed_squares"]


class Factors(NamedTuple):
    """The gradient of each example as ``sum_t rows_t columns_t^T`` over its positions.

    Attributes:
        rows: ``(examples, T, length of axis 0)``; of whole numbers ``(examples, T)``: 1 there, else 0.
        columns: ``(examples, T, length of axis 1)``.
    """

    rows: Tensor
    columns: Tensor


def joined(parts: Sequence[Factors]) -> list[Factors]:
    """The sum of some gradients by as few factors as there are kinds: of numbers, and of tables."""
    if len(parts) < 2:
        return list(parts)
    dtypes = [column.dtype for part in parts for column in part if column.is_floating_point()]
    dtype = max(dtypes, key=lambda one: torch.finfo(one).bits)
    found = []
    for axes in (3, 2):
        own = [part for part in parts if part.rows.ndim == axes]
        if own:
            rows = torch.cat([part.rows if axes == 2 else part.rows.to(dtype) for part in own], 1)
            found.append(Factors(rows, torch.cat([part.columns.to(dtype) for part in own], 1)))
    return found


def product_squares(
    factors: Callable[[slice], tuple[Tensor, Tensor]],
    size: int,
    device: torch.device,
    *,
    positions: int,
    ins: int,
    outs: int,
    groups: int = 1,
    apart: int = 0,
) -> Tensor:
    """The squared norms of ``G^T A`` of each example, by the cheaper of two ways.

    ``sum_st (a_s . a_t) (g_s . g_t)`` takes T (in + out) products in place of in * out for each position.

    Args:
        factors: of some examples A ``(examples, groups, T, in)`` and G ``(examples, groups, T, out)``.
        positions, ins, outs, groups: the lengths of the axes.
        apart: entries of one example that ``factors`` has to make.
    """
    pairs = positions * (ins + outs) < ins * outs
    cost = groups * (positions * (2 * positions + ins + outs) if pairs else ins * outs) + apart
    found = []
    for some in chunks(size, cost, device):
        a, g = factors(some)
        if positions == 1:
            found.append((_sums(a) * _sums(g)).sum(1))
        elif pairs:
            found.append(summed_squares([Factors(g, a)]))
        else:
            found.append(squared(widened(g).mT @ widened(a)))
    return torch.cat(found)


def summed_squares(parts: Sequence[Factors]) -> Tensor:
    """The squared norms of the sum of some gradients of each example, in the wide float, ``(examples,)``.

    Axes between the examples and the positions are groups, whose squares are added.
    """
    scaled = [_scaled(one) for one in parts]
    found = [_inner(a, b) * (1 if a is b else 2) for a, b in combinations_with_replacement(scaled, 2)]
    return torch.stack(found).sum(0).clamp_(min=0)


def largest(tensor: Tensor, axes: int | tuple[int, ...]) -> Tensor:
    """The largest modulus along some axes, which stay with length 1; 1 where it is 0 or not finite."""
    return _divisor(torch.linalg.vector_norm(tensor, math.inf, dim=axes, keepdim=True))


def _divisor(found: Tensor) -> Tensor:
    return torch.where((found > 0) & (found < math.inf), found, 1)


class _Scaled(NamedTuple):
    """`Factors` whose numbers are at most 1, so that products of four of them stay in the range of a float32.

    Attributes:
        rows, columns: divided by the largest entry of each position.
        sizes: what they were divided by, ``(..., T, 1)``, divided by the total.
        total: ``(..., 1, 1)`` in the wide float.
    """

    rows: Tensor
    columns: Tensor
    sizes: Tensor
    total: Tensor


def _scaled(factors: Factors) -> _Scaled:
    columns, sizes = _by_largest(factors.columns)
    rows = factors.rows
    if rows.is_floating_point():
        rows, more = _by_largest(rows)
        sizes = sizes * more
    total = sizes.sum(-2, keepdim=True)
    total = torch.where(total > 0, total, 1)
    return _Scaled(rows, columns, (sizes / total).to(columns.dtype), total)


def _by_largest(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A tensor divided by the largest modulus along its last axis, and that modulus in the wide float."""
    tensor = widened(tensor)
    found = torch.linalg.vector_norm(tensor, math.inf, dim=-1, keepdim=True)
    by = _divisor(found)
    return tensor / by, by.masked_fill(found == 0, 0).to(wide(by.device))


def _inner(one: _Scaled, other: _Scaled) -> Tensor:
    """The inner products of two gradients of each example, ``(examples,)``, in the wide float.

    ``sum_st (columns_s . columns'_t) (rows_s . rows'_t)``, T times T' numbers an example.
    """
    if one.rows.ndim < other.rows.ndim:
        one, other = other, one
    products = one.columns @ other.columns.mT
    if one.rows.ndim == 2:  # two tables
        rows = (one.rows[:, :, None] == other.rows[:, None]).to(products.dtype)
    elif other.rows.ndim == 2:  # the columns of the one's rows that the other has a 1 in
        index = other.rows[:, None].expand(-1, one.rows.shape[1], -1)
        rows = one.rows.gather(2, index.long())
    else:
        rows = one.rows @ other.rows.mT
    found = one.sizes * (products.mul_(rows) @ other.sizes)
    totals = one.total * other.total
    return (found.sum(-2, keepdim=True).to(totals.dtype) * totals).flatten(1).sum(1)


def _sums(tensor: Tensor) -> Tensor:
    """Squared norms over the last two axes, in the wide float."""
    return squared(tensor.flatten(0, 1)).view(tensor.shape[:2])
