"""The arithmetic on torch's operations that take a list of tensors: fewer launches, and never a wait.

Norms stay on the device. What they do not measure rightly (a sum in float32 overflows) and what they do not
take (sparse, complex, float64, other orders) goes through the reference engine, one by one. The CPU is
treated as the reference engine treats it.

Elsewhere a coefficient below 1e-38 (gradients of 1e38, a threshold below 1) is rounded to float32 and loses
digits: another pass over the gradients, for everyone, would be the price of keeping them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clipwise.namespace import Array, namespace_of
from clipwise.torch.engines import reference
from clipwise.torch.engines._arrays import wide

__all__ = ["Batch"]


class Batch(reference.Batch):
    """Tensors on one device; see `clipwise.torch.engines.reference.Batch`. Norms stay on the device."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__(tensors)
        self.xp = namespace_of(torch.empty((), dtype=wide(self.device), device=self.device))

    def norms(self, p: float) -> Array:
        dtype = wide(self.device)
        if self.on_cpu or p not in (1.0, 2.0, math.inf) or not self._plain or dtype == torch.float32:
            return super().norms(p)
        found = torch._foreach_norm(self._plain, p, dtype=dtype)
        if not self.odd:
            return torch.stack(found)
        every = dict(zip(self._at, found, strict=True))
        every |= {i: reference.tensor_norm(reference.values_of(self.tensors[i]), p) for i in self.odd}
        return self._array([every[i].reshape(1) for i in range(len(self.tensors))])

    def scale_(self, coefficients: Array) -> None:
        if self.on_cpu:
            super().scale_(coefficients)
            return
        single = coefficients.to(torch.float32)
        each = single.unbind() if single.ndim else [single] * len(self.tensors)
        together = [i for i in self._at if self.tensors[i].dtype == torch.float32]
        if together:
            factors = [each[i] for i in together] if single.ndim else single
            torch._foreach_mul_([self.tensors[i] for i in together], factors)
        taken = set(together)
        for i in self._at:
            if i not in taken:  # of one dimension: one of none would be rounded to a half first
                torch.mul(self.tensors[i], each[i].reshape(1), out=self.tensors[i])
        for i in self.odd:
            own = coefficients[i] if coefficients.ndim else coefficients
            reference.scale_(reference.values_of(self.tensors[i]), own)
