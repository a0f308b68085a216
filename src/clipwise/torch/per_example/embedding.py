"""Rows of a table: their norms without a gradient of the table for each example."""

import torch
from torch import Tensor

from clipwise.torch.engines._arrays import wide
from clipwise.torch.per_example.rows import chunks, squared, unchanged, widened
from clipwise.torch.per_example.ties import Factors, largest
from clipwise.torch.per_example.uses import Use, Weight

__all__ = ["EmbeddingUse"]


class EmbeddingUse(Use):
    """Rows of a table: the gradient of a row is the sum of those of its places.

    Args:
        index: ``(examples, ...)``.
        padding: a row without a gradient.
    """

    def __init__(self, weight: Weight, size: int, index: Tensor, padding: int | None) -> None:
        super().__init__([weight], size)
        self.index, self._version = index, index._version
        rows = weight.tensor.shape[0]
        self.padding = -1 if padding is None else padding % rows

    def cost(self, role: int) -> int:
        return self.weights[role].size

    def replace(self, places: Tensor) -> None:
        index, gradient = self._both(slice(0, self.size))
        self.index, self._gradient = index[places], gradient[places]
        self._version = self.index._version

    def _both(self, some: slice) -> tuple[Tensor, Tensor]:
        """Rows and gradients by place, ``(examples, T)`` and ``(examples, T, width)``."""
        unchanged(self.index, self._version)
        gradient = self.gradient.reshape(self.size, -1, self.gradient.shape[-1])[some]
        return self.index.reshape(self.size, -1)[some], gradient

    def factors(self, role: int, some: slice) -> Factors:
        index, gradient = self._both(some)
        return Factors(index, gradient.masked_fill((index == self.padding)[..., None], 0))

    def squares(self, role: int) -> Tensor:
        """By sorting the places by row: no entry for each row of the table, or each pair of places."""
        index, _ = self._both(slice(0, 0))
        width = self.weights[0].tensor.shape[1]
        parts = chunks(self.size, 2 * index.shape[1] * width, index.device)
        return torch.cat([self._sorted_squares(*self._both(some)) for some in parts])

    def _sorted_squares(self, index: Tensor, gradient: Tensor) -> Tensor:
        count, positions, width = gradient.shape
        if positions < 2:
            return squared(gradient).masked_fill((index == self.padding).any(1), 0)
        rows, order = index.sort(dim=1)
        first = torch.ones_like(rows, dtype=torch.bool)
        first[:, 1:] = rows[:, 1:] != rows[:, :-1]
        segment = first.flatten().cumsum(0) - 1
        gradient = widened(gradient)
        ordered = gradient.gather(1, order[..., None].expand(-1, -1, width))
        by = largest(ordered, (1, 2))  # without it squares would leave the range of a float32
        ordered = ordered.div_(by).view(-1, width)
        sums = torch.zeros_like(ordered).index_add_(0, segment, ordered)
        squares = sums.square().sum(1)
        # Each segment counts at its first place, unless it is the padding's.
        there = first & (rows != self.padding)
        found = (squares[segment].view(count, positions) * there).sum(1)
        return found.to(wide(by.device)) * by.view(-1).to(wide(by.device)).square()

    def examples(self, role: int, some: slice) -> Tensor:
        index, gradient = self._both(some)
        rows, width = self.weights[0].tensor.shape
        gradient = gradient.masked_fill((index == self.padding)[..., None], 0)
        found = gradient.new_zeros(len(index), rows, width)
        return found.scatter_add_(1, index[..., None].expand(-1, -1, width).long(), gradient)

    def total(self, role: int, factors: Tensor) -> Tensor:
        index, gradient = self._both(slice(0, self.size))
        scaled = gradient * factors.to(gradient.dtype).view(-1, 1, 1)
        rows = self.weights[0].tensor.shape[0]
        found: Tensor = torch.ops.aten.embedding_dense_backward(scaled, index, rows, self.padding, False)
        return found
