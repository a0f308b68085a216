"""The norms of a list of gradients as they are now, each measured at most once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clipwise.clip import Norm, Per
from clipwise.errors import ParameterError
from clipwise.torch.engines import reference as engine

__all__ = ["Measure", "order_of", "rms_size", "values_of"]


def values_of(gradient: Tensor) -> Tensor:
    """The entries that are stored: the gradient itself, or the values of a coalesced sparse one."""
    return gradient._values() if gradient.is_sparse else gradient


def order_of(norm: Norm) -> float:
    """The order p in which a norm is measured: 2 for the root mean square."""
    return 2.0 if norm == "rms" else norm


def rms_size(norm: Norm, entries: float) -> float:
    """What the 2-norm of so many entries is divided by to be the root mean square; 1 for other norms."""
    return math.sqrt(max(entries, 1)) if norm == "rms" else 1.0


class Measure:
    """Norms by tensor, unit or all together, cached. Make a new one after changing the gradients.

    Args:
        gradients: dense or coalesced sparse, of any dtypes, shapes and devices; at least one.
        scale: what they were multiplied by (a gradient scaler's scale, 0-d); norms are those without it.
    """

    def __init__(self, gradients: Sequence[Tensor], scale: Tensor | None = None) -> None:
        self.gradients = gradients
        self.device = gradients[0].device
        self.dtype = engine.wide(self.device)
        self.scale = None if scale is None else scale.to(self.device, self.dtype)
        self._tensors: dict[float, Tensor] = {}
        self._units: dict[float, list[Tensor]] = {}

    @property
    def sizes(self) -> list[int]:
        """The number of entries of each gradient; a sparse one counts as if it were dense."""
        return [g.numel() for g in self.gradients]

    def tensors(self, p: float) -> Tensor:
        """The p-norm of each gradient, one vector."""
        if p not in self._tensors:
            if p in self._units:
                norms = [engine.combine(units, p) for units in self._units[p]]
            else:
                norms = [self._true(engine.tensor_norm(values_of(g), p)) for g in self.gradients]
            self._tensors[p] = torch.stack(norms)
        return self._tensors[p]

    def units(self, p: float) -> list[Tensor]:
        """The p-norms of the units of each gradient, a vector for each."""
        if p not in self._units:
            self._units[p] = [self._true(_units(g, p)) for g in self.gradients]
        return self._units[p]

    def groups(self, per: Per, norm: Norm) -> list[Tensor]:
        """The norms of the groups of each gradient: its units, or itself."""
        p = order_of(norm)
        parts = self.units(p) if per == "unit" else list(self.tensors(p).split(1))
        if norm != "rms":
            return parts
        return [part / size for part, size in zip(parts, self.group_sizes(parts), strict=True)]

    def group_sizes(self, parts: Sequence[Tensor]) -> list[float]:
        """What turns the root mean squares of these groups into 2-norms."""
        return [rms_size("rms", n / max(len(part), 1)) for n, part in zip(self.sizes, parts, strict=True)]

    def joint(self, norm: Norm) -> Tensor:
        """The norm of all gradients together, 0-d."""
        p = order_of(norm)
        return engine.combine(self.tensors(p), p) / rms_size(norm, sum(self.sizes))

    def again(self) -> "Measure":
        """A measure of the same gradients after they were changed."""
        return Measure(self.gradients, self.scale)

    def part(self, places: Sequence[int]) -> "Measure":
        """The measure of some of the gradients, with what is known of them."""
        part = Measure([self.gradients[i] for i in places], self.scale)
        part.device, part.dtype, part.scale = self.device, self.dtype, self.scale
        part._tensors = {p: torch.stack([norms[i] for i in places]) for p, norms in self._tensors.items()}
        part._units = {p: [units[i] for i in places] for p, units in self._units.items()}
        return part

    def _true(self, norms: Tensor) -> Tensor:
        norms = norms.to(self.device, self.dtype)
        return norms if self.scale is None else norms / self.scale


def _units(gradient: Tensor, p: float) -> Tensor:
    if not gradient.is_sparse or gradient.ndim < 2:
        return engine.unit_norms(values_of(gradient), p)
    if gradient.sparse_dim() != 1:
        raise ParameterError(
            f"per='unit' takes gradients sparse along axis 0 only, got {gradient.sparse_dim()} sparse axes"
        )
    every = torch.zeros(gradient.shape[0], dtype=engine.wide(gradient.device), device=gradient.device)
    if not gradient._nnz():
        return every
    rows = engine.unit_norms(gradient._values().reshape(gradient._nnz(), -1), p)
    return every.index_copy_(0, gradient._indices()[0], rows)
