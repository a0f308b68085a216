"""The layers whose norms follow from what goes in and what comes back, without any per-example gradient."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipwise.torch.per_example.rows import squared, widened
from clipwise.torch.per_example.ties import Factors
from clipwise.torch.per_example.uses import Use, Weight, chunks

__all__ = ["AffineUse", "ConvUse", "EmbeddingUse", "LinearUse"]


class MatrixUse(Use):
    """A weight that meets columns of numbers: the gradient of an example is ``G^T A`` over its T positions.

    Its squared norm is ``sum_st (a_s . a_t) (g_s . g_t)``, which takes T (in + out) products in place of
    in * out for each position.
    """

    @abstractmethod
    def _factors(self, some: slice) -> tuple[Tensor, Tensor]:
        """What went in, and what came back: ``(examples, groups, T, in)``, ``(examples, groups, T, out)``."""

    def _matrix_squares(self, positions: int, ins: int, outs: int, groups: int, apart: int) -> Tensor:
        """Squared norms, by the cheaper of the two ways.

        Args:
            positions, ins, outs, groups: the lengths of the axes.
            apart: entries of one example that `_factors` has to make.
        """
        pairs = positions * (ins + outs) < ins * outs
        cost = groups * (2 * positions * positions if pairs else ins * outs) + apart
        found = []
        for some in chunks(self.size, cost, self.gradient.device):
            a, g = (widened(one) for one in self._factors(some))
            if positions == 1:
                found.append((_sums(a) * _sums(g)).sum(1))
            elif pairs:
                products = a @ a.mT
                found.append(products.mul_(g @ g.mT).flatten(1).sum(1).clamp_(min=0))
            else:
                found.append(squared(g.mT @ a))
        return torch.cat(found)


class LinearUse(MatrixUse):
    """``y = x W^T + b``, or ``x W + b``.

    Args:
        x: ``(examples, ..., in)``; see ``time_first``.
        roles: which of weight and bias are tracked, by role: ``"weight"`` or ``"bias"``.
        transposed: the weight is (in, out).
        time_first: examples are along axis 1.
        flat: the first two axes are one, of so many positions an example.
    """

    def __init__(
        self,
        weights: Sequence[Weight],
        roles: Sequence[str],
        size: int,
        x: Tensor,
        *,
        transposed: bool = False,
        time_first: bool = False,
    ) -> None:
        super().__init__(weights, size)
        self.roles = roles
        self.transposed = transposed
        self.time_first = time_first
        self._x, self._version = x.detach(), x._version

    def release(self) -> None:
        super().release()
        del self._x

    def _both(self) -> tuple[Tensor, Tensor]:
        """What went in and came back, ``(examples, T, ...)``."""
        unchanged(self._x, self._version)
        return self._arranged(self._x), self._arranged(self.gradient)

    def _arranged(self, tensor: Tensor) -> Tensor:
        if self.time_first:  # (T, examples, d), or the two first as one
            return tensor.reshape(-1, self.size, tensor.shape[-1]).transpose(0, 1)
        return tensor.reshape(self.size, -1, tensor.shape[-1])

    def _factors(self, some: slice) -> tuple[Tensor, Tensor]:
        x, gradient = self._both()
        return x[some, None], gradient[some, None]

    def factors(self, role: int, some: slice) -> Factors | None:
        if self.roles[role] == "bias":
            return None
        x, gradient = (one[some] for one in self._both())
        x = x.to(gradient.dtype)
        return Factors(x, gradient) if self.transposed else Factors(gradient, x)

    def squares(self, role: int) -> Tensor:
        x, gradient = self._both()
        if self.roles[role] == "bias":
            return _bias_squares(gradient)
        return self._matrix_squares(x.shape[1], x.shape[2], gradient.shape[2], 1, 0)

    def examples(self, role: int, some: slice) -> Tensor:
        x, gradient = (one[some] for one in self._both())
        if self.roles[role] == "bias":
            return widened(gradient).sum(1)
        x = x.to(gradient.dtype)
        return x.mT @ gradient if self.transposed else gradient.mT @ x

    def total(self, role: int, factors: Tensor) -> Tensor:
        x, gradient = self._both()
        if self.roles[role] == "bias":
            return factors.to(widened(gradient[:0]).dtype) @ widened(gradient).sum(1)
        factors = factors.to(gradient.dtype).view(-1, 1, 1)
        x = x.to(gradient.dtype)
        if x.shape[2] < gradient.shape[2]:  # the smaller of the two is copied
            x = x * factors
        else:
            gradient = gradient * factors
        a, g = x.reshape(-1, x.shape[2]), gradient.reshape(-1, gradient.shape[2])
        return a.mT @ g if self.transposed else g.mT @ a


class EmbeddingUse(Use):
    """Rows of a table: the gradient of a row is the sum of those of its places.

    Args:
        index: ``(examples, ...)``.
        padding: a row without a gradient.
    """

    def __init__(self, weight: Weight, size: int, index: Tensor, padding: int | None) -> None:
        super().__init__([weight], size)
        self.index = index
        rows = weight.tensor.shape[0]
        self.padding = -1 if padding is None else padding % rows

    def cost(self, role: int) -> int:
        return self.weights[role].size

    def _both(self, some: slice) -> tuple[Tensor, Tensor]:
        """Rows and gradients by place, ``(examples, T)`` and ``(examples, T, width)``."""
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
        if positions == 1:
            found = squared(gradient)
            return found.masked_fill(index[:, 0] == self.padding, 0)
        rows, order = index.sort(dim=1)
        first = torch.ones_like(rows, dtype=torch.bool)
        first[:, 1:] = rows[:, 1:] != rows[:, :-1]
        segment = first.flatten().cumsum(0) - 1
        gradient = widened(gradient)
        ordered = gradient.gather(1, order[..., None].expand(-1, -1, width)).view(-1, width)
        sums = torch.zeros_like(ordered).index_add_(0, segment, ordered)
        squares = sums.square().sum(1)
        # Each segment counts at its first place, unless it is the padding's.
        there = first & (rows != self.padding)
        return (squares[segment].view(count, positions) * there).sum(1)

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


class ConvUse(MatrixUse):
    """A convolution over one or two axes, seen as a matrix that meets patches.

    Args:
        roles: as for `LinearUse`.
        x: ``(examples, channels, ...)``.
        stride, padding, dilation: one number an axis.
    """

    def __init__(
        self,
        weights: Sequence[Weight],
        roles: Sequence[str],
        size: int,
        x: Tensor,
        kernel: Tensor,
        *,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
    ) -> None:
        super().__init__(weights, size)
        self.roles = roles
        self._x, self._version = x.detach(), x._version
        self.kernel = kernel.detach()
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups

    def release(self) -> None:
        super().release()
        del self._x

    def _factors(self, some: slice) -> tuple[Tensor, Tensor]:
        unchanged(self._x, self._version)
        g = self.gradient[some].unflatten(1, (self.groups, -1)).flatten(3)
        x = self._x[some].to(g.dtype)
        shape = list(self.kernel.shape[2:])
        options = [list(self.dilation), list(self.padding), list(self.stride)]
        if x.ndim == 3:  # as an image of one row
            x, shape = x[:, :, None], [1, *shape]
            options = [[neutral, *own] for neutral, own in zip((1, 0, 1), options, strict=True)]
        if math.prod(shape) == 1 and not any(options[1]) and set(options[2]) == {1}:
            patches = x.flatten(2)
        else:
            dilation, padding, stride = (tuple(one) for one in options)
            patches = F.unfold(x, tuple(shape), dilation, padding, stride)
        return patches.unflatten(1, (self.groups, -1)).mT, g.mT

    def squares(self, role: int) -> Tensor:
        if self.roles[role] == "bias":
            return _bias_squares(self.gradient.flatten(2).mT)
        outs = self.kernel.shape[0] // self.groups
        ins = math.prod(self.kernel.shape[1:])
        positions = math.prod(self.gradient.shape[2:])
        return self._matrix_squares(positions, ins, outs, self.groups, positions * self.groups * (ins + outs))

    def cost(self, role: int) -> int:
        positions = math.prod(self.gradient.shape[2:])
        return super().cost(role) + positions * self.groups * math.prod(self.kernel.shape[1:])

    def examples(self, role: int, some: slice) -> Tensor:
        if self.roles[role] == "bias":
            return widened(self.gradient[some]).flatten(2).sum(2)
        a, g = self._factors(some)
        return (g.mT @ a).reshape(-1, *self.kernel.shape)

    def total(self, role: int, factors: Tensor) -> Tensor:
        if self.roles[role] == "bias":
            sums = widened(self.gradient).flatten(2).sum(2)
            return factors.to(sums.dtype) @ sums
        gradient, x = self.gradient, self._x.to(self.gradient.dtype)
        factors = factors.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        if x.numel() < gradient.numel():
            x = x * factors
        else:
            gradient = gradient * factors
        axes = len(self.stride)
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient,
            x,
            self.kernel.to(x.dtype),
            None,
            list(self.stride),
            list(self.padding),
            list(self.dilation),
            False,
            [0] * axes,
            self.groups,
            [False, True, False],
        )[1]
        return found


class AffineUse(Use):
    """The scale and shift after a normalisation: ``y = w * normal(x) + b``.

    The gradients of the examples are as small as one position of each: they are made as soon as the backward
    pass comes by, and nothing else is kept.

    Args:
        roles: as for `LinearUse`.
        normal: of some examples of ``x``, what is multiplied by the weight.
        middle: the axes that are neither that of the examples nor the weight's.
    """

    def __init__(
        self,
        weights: Sequence[Weight],
        roles: Sequence[str],
        size: int,
        x: Tensor,
        normal: Callable[[Tensor], Tensor],
        middle: Sequence[int],
    ) -> None:
        super().__init__(weights, size)
        self.roles = roles
        self._x: Tensor | None = x.detach()
        self._version = x._version
        self._normal, self._middle = normal, tuple(middle)
        self._rows: list[Tensor] = []

    @torch.no_grad()
    def receive(self, gradient: Tensor) -> None:
        x, self._x, self.reached = self._x, None, True
        assert x is not None
        unchanged(x, self._version)
        parts: list[list[Tensor]] = [[] for _ in self.roles]
        with torch.autocast(x.device.type, enabled=False):
            for some in chunks(self.size, 3 * x.numel() // max(1, self.size), x.device):
                own = widened(gradient[some])
                for role, part in zip(self.roles, parts, strict=True):
                    rows = self._normal(x[some]).to(own.dtype) * own if role == "weight" else own
                    part.append(rows.sum(self._middle) if self._middle else rows)
        shapes = [weight.tensor.shape for weight in self.weights]
        self._rows = [torch.cat(part).view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def release(self) -> None:
        self._rows = []

    def squares(self, role: int) -> Tensor:
        return squared(self._rows[role])

    def examples(self, role: int, some: slice) -> Tensor:
        return self._rows[role][some]

    def total(self, role: int, factors: Tensor) -> Tensor:
        rows = self._rows[role]
        found: Tensor = torch.tensordot(factors.to(rows.dtype), rows, dims=1)
        return found


def unchanged(tensor: Tensor, version: int) -> None:
    """RuntimeError if a tensor was written into since its version was this, as the backward pass has it."""
    if tensor._version != version:
        raise RuntimeError(
            f"a tensor of shape {tuple(tensor.shape)} that is needed for gradients was changed by an in-place"
            " operation"
        )


def _sums(tensor: Tensor) -> Tensor:
    """Squared norms over the last two axes, in the wide float."""
    return squared(tensor.flatten(0, 1)).view(tensor.shape[:2])


def _bias_squares(gradient: Tensor) -> Tensor:
    """Of ``(examples, T, out)``."""
    return squared(widened(gradient).sum(1) if gradient.shape[1] > 1 else gradient)
