"""Gradients under `torch.compile`: torch's operations alone, which a graph can hold."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipwise.torch.engines._arrays import wide
from clipwise.torch.engines.reference import unit_norms, values_of


class Traced:
    """Some tensors while a graph is made of what is done to them: what the drop-ins ask of an engine.

    The numbers are those of the reference engine; but no tensor is taken piece by piece, which is for the
    compiler to decide, and nothing asks for a value.
    """

    xp: Any = torch

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.odd = range(len(tensors))
        self.device = tensors[0].device

    @property
    def dtype(self) -> torch.dtype:
        """The widest real dtype among the tensors, at least float32."""
        wide_ones = (torch.float64, torch.complex128)
        return torch.float64 if any(t.dtype in wide_ones for t in self.tensors) else torch.float32

    def norm(self, p: float) -> Tensor:
        """The p-norm of all tensors together, 0-d."""
        each = [_moduli(t) if t.is_complex() else t for t in map(values_of, self.tensors)]
        norms = [unit_norms(values.reshape(1, -1), p).to(self.device) for values in each]
        return unit_norms(torch.cat(norms).reshape(1, -1), p)[0]

    def scale_(self, coefficient: Tensor) -> None:
        """Multiply in place by one coefficient (0-d); each product is rounded once."""
        for tensor in map(values_of, self.tensors):
            parts = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            dtype = wide(tensor.device)
            parts.copy_(parts.to(dtype) * coefficient.to(tensor.device, dtype))

    def clamp_(self, low: Tensor | float, high: Tensor | float, *, report: bool = False) -> None:
        """Bound every entry in place, a complex one by its modulus; ``low`` is ``-high``."""
        for tensor in map(values_of, self.tensors):
            if tensor.is_complex():
                modulus = _moduli(tensor)
                tensor.copy_(torch.where(modulus > high, tensor * (high / modulus), tensor))
            elif isinstance(high, Tensor):
                tensor.clamp_(torch.as_tensor(low, dtype=tensor.dtype, device=tensor.device), high.to(tensor))
            elif high <= torch.finfo(tensor.dtype).max:  # torch refuses one beyond
                tensor.clamp_(float(low), high)


def _moduli(values: Tensor) -> Tensor:
    parts = torch.view_as_real(values.resolve_conj()).to(wide(values.device))
    return torch.hypot(parts[..., 0], parts[..., 1])
