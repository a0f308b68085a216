"""A weight that is used more than once: the norm of a sum of products, without the sum."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from clipwise.torch.per_example.rows import widened

__all__ = ["Factors", "inner", "pairs_of"]


class Factors(NamedTuple):
    """The gradient of each example as ``sum_t rows_t columns_t^T`` over its positions.

    Attributes:
        rows: ``(examples, T, length of axis 0)``; of whole numbers ``(examples, T)``: 1 there, else 0.
        columns: ``(examples, T, length of axis 1)``.
    """

    rows: Tensor
    columns: Tensor


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


def pairs_of(parts: Sequence[Factors]) -> Tensor:
    """Twice the inner products of all pairs, which the squares of a sum have beside those of its parts."""
    return 2 * torch.stack([inner(*pair) for pair in combinations(parts, 2)]).sum(0)
