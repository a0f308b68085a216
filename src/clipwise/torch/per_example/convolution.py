"""Convolutions over any number of axes, and transposed ones, as matrices that meet patches."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clipwise.torch.per_example.linear import MatrixUse, bias_squares
from clipwise.torch.per_example.rows import unchanged, widened
from clipwise.torch.per_example.uses import Weight

__all__ = ["ConvUse", "Geometry"]


class Geometry(NamedTuple):
    """How a kernel moves: one number an axis.

    Attributes:
        transposed: it spreads what it meets, and ``output_padding`` is added.
    """

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    transposed: bool = False
    output_padding: Sequence[int] = ()


class ConvUse(MatrixUse):
    """A convolution seen as a matrix ``(kernel[0], the rest)`` that meets patches.

    It meets those of what went in. The transposed one is the way back of a convolution: its kernel joins what
    went in with the patches of what came back.

    Args:
        roles: as for `LinearUse`.
        x: ``(examples, channels, ...)``.
    """

    def __init__(
        self,
        weights: Sequence[Weight],
        roles: Sequence[str],
        size: int,
        x: Tensor,
        kernel: Tensor,
        geometry: Geometry,
    ) -> None:
        super().__init__(weights, size)
        self.roles = roles
        self._x, self._version = x.detach(), x._version
        self.kernel, self.geometry = kernel.detach(), geometry

    def release(self) -> None:
        super().release()
        del self._x

    def replace(self, places: Tensor) -> None:
        super().replace(places)
        unchanged(self._x, self._version)
        self._x = self._x[places]
        self._version = self._x._version

    def _factors(self, some: slice) -> tuple[Tensor, Tensor]:
        unchanged(self._x, self._version)
        g, groups = self.gradient[some], self.geometry.groups
        x = self._x[some].to(g.dtype)
        met, other = (g, x) if self.geometry.transposed else (x, g)
        patches = _patches(met, self.kernel.shape[2:], other.shape[2:], self.geometry)
        return patches.unflatten(1, (groups, -1)).mT, other.unflatten(1, (groups, -1)).flatten(3).mT

    def _sizes(self) -> tuple[int, int, int]:
        """Positions, and the entries of each that go in and out, in one group."""
        other = self._x if self.geometry.transposed else self.gradient
        outs = self.kernel.shape[0] // self.geometry.groups
        return math.prod(other.shape[2:]), math.prod(self.kernel.shape[1:]), outs

    def squares(self, role: int) -> Tensor:
        if self.roles[role] == "bias":
            return bias_squares(self.gradient.flatten(2).mT)
        positions, ins, outs = self._sizes()
        groups = self.geometry.groups
        return self._matrix_squares(positions, ins, outs, groups, positions * groups * (ins + outs))

    def cost(self, role: int) -> int:
        positions, ins, _ = self._sizes()
        return super().cost(role) + positions * self.geometry.groups * ins

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
        g = self.geometry
        found: Tensor = torch.ops.aten.convolution_backward(
            gradient,
            x,
            self.kernel.to(x.dtype),
            None,
            g.stride,
            g.padding,
            g.dilation,
            g.transposed,
            list(g.output_padding) or [0] * len(g.stride),
            g.groups,
            [False, True, False],
        )[1]
        return found


def _patches(x: Tensor, kernel: Sequence[int], counts: Sequence[int], geometry: Geometry) -> Tensor:
    """What the kernel meets at each position, ``(examples, channels and kernel, positions)``.

    Args:
        counts: positions along each axis.
    """
    if math.prod(kernel) == 1 and not any(geometry.padding) and x.shape[2:] == tuple(counts):
        return x.flatten(2)
    if any(geometry.padding):
        x = F.pad(x, [one for padding in reversed(geometry.padding) for one in (padding, padding)])
    example, channel, *axes = x.stride()
    inside = [d * one for d, one in zip(geometry.dilation, axes, strict=True)]
    between = [s * one for s, one in zip(geometry.stride, axes, strict=True)]
    shape = (*x.shape[:2], *kernel, *counts)
    view = x.as_strided(shape, (example, channel, *inside, *between))
    return view.reshape(len(x), -1, math.prod(counts))
