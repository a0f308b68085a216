"""The norms of a list of gradients as they are now, each measured at most once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from clipwise.errors import ParameterError
from clipwise.torch.engines import reference as engine

__all__ = ["Measure", "values_of"]


def values_of(gradient: Tensor) -> Tensor:
    """The entries that are stored: the gradient itself, or the values of a coalesced sparse one."""
    return gradient._values() if gradient.is_sparse else gradient


class Measure:
    """Norms by tensor, unit or all together, cached. Make a new one after changing the gradients.

    Args:
        gradients: dense or coalesced sparse, of any dtypes, shapes and devices; at least one.
    """

    def __init__(self, gradients: Sequence[Tensor]) -> None:
        self.gradients = gradients
        self.device = gradients[0].device
        self.dtype = engine.wide(self.device)
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
                norms = [engine.tensor_norm(values_of(g), p) for g in self.gradients]
            self._tensors[p] = torch.stack([norm.to(self.device, self.dtype) for norm in norms])
        return self._tensors[p]

    def units(self, p: float) -> list[Tensor]:
        """The p-norms of the units of each gradient, a vector for each."""
        if p not in self._units:
            self._units[p] = [_units(g, p).to(self.device, self.dtype) for g in self.gradients]
        return self._units[p]

    def part(self, places: Sequence[int]) -> "Measure":
        """The measure of some of the gradients, with what is known of them."""
        part = Measure([self.gradients[i] for i in places])
        part.device, part.dtype = self.device, self.dtype
        part._tensors = {p: norms[list(places)] for p, norms in self._tensors.items()}
        part._units = {p: [units[i] for i in places] for p, units in self._units.items()}
        return part

    def total(self, p: float) -> Tensor:
        """The p-norm of all gradients together, 0-d."""
        return engine.combine(self.tensors(p), p)


def _units(gradient: Tensor, p: float) -> Tensor:
    if not gradient.is_sparse or gradient.ndim < 2:
        return engine.unit_norms(values_of(gradient), p)
    if gradient.sparse_dim() != 1:
        raise ParameterError(
            f"per='unit' takes gradients sparse along axis 0 only, got {gradient.sparse_dim()} sparse axes"
        )
    rows = engine.unit_norms(gradient._values().reshape(gradient._nnz(), -1), p)
    return rows.new_zeros(gradient.shape[0]).index_copy_(0, gradient._indices()[0], rows)
