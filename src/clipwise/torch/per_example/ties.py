"""Gradients of examples that are known as products of two factors: norms without the products."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clipwise.torch.per_example.rows import chunks, squared, widened

__all__ = ["Factors", "inner", "joined", "product_squares"]


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
    cost = groups * (2 * positions * positions if pairs else ins * outs) + apart
    found = []
    for some in chunks(size, cost, device):
        a, g = (widened(one) for one in factors(some))
        if positions == 1:
            found.append((_sums(a) * _sums(g)).sum(1))
        elif pairs:
            products = a @ a.mT
            found.append(products.mul_(g @ g.mT).flatten(1).sum(1).clamp_(min=0))
        else:
            found.append(squared(g.mT @ a))
    return torch.cat(found)


def inner(one: Factors, other: Factors) -> Tensor:
    """The inner products of two gradients of each example, ``(examples,)``.

    ``sum_st (columns_s . columns'_t) (rows_s . rows'_t)``, T times T' numbers an example.
    """
    if one.rows.ndim < other.rows.ndim:
        one, other = other, one
    columns = widened(one.columns) @ widened(other.columns).mT
    if one.rows.ndim == 2:  # two tables
        rows = (one.rows[:, :, None] == other.rows[:, None]).to(columns.dtype)
    elif other.rows.ndim == 2:  # the columns of the one's rows that the other has a 1 in
        index = other.rows[:, None].expand(-1, one.rows.shape[1], -1)
        rows = widened(one.rows.gather(2, index.long()))
    else:
        rows = widened(one.rows) @ widened(other.rows).mT
    return columns.mul_(rows).flatten(1).sum(1)


def _sums(tensor: Tensor) -> Tensor:
    """Squared norms over the last two axes, in the wide float."""
    return squared(tensor.flatten(0, 1)).view(tensor.shape[:2])
