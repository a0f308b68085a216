"""Convolutions, as matrices that meet patches."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from clipwise.torch.per_example.linear import MatrixUse, bias_squares
from clipwise.torch.per_example.rows import unchanged, widened
from clipwise.torch.per_example.uses import Weight

__all__ = ["ConvUse"]


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
            return bias_squares(self.gradient.flatten(2).mT)
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
