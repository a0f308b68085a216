"""The scale and shift of normalisations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clipwise.torch.per_example.rows import chunks, squared, unchanged, widened
from clipwise.torch.per_example.uses import Use, Weight

__all__ = ["AffineUse"]


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
        self.entries = gradient.numel() // max(1, self.size)
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

    def replace(self, places: Tensor) -> None:
        self._rows = [rows[places] for rows in self._rows]

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
