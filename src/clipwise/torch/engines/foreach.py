"""The arithmetic on torch's operations that take a list of tensors: fewer launches, and never a wait.

What they do not measure rightly (half precision would round the coefficient, float64 squares overflow) and
what they do not take (sparse, complex, other orders) goes through the reference engine, one by one.

A coefficient below 1e-38 (gradients of 1e38, a threshold below 1) is rounded to float32 here and loses
digits: another pass over the gradients, for everyone, would be the price of keeping them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from clipwise.namespace import Array, namespace_of
from clipwise.torch.engines import reference
from clipwise.torch.engines._arrays import wide

__all__ = ["Batch"]

_PLAIN = (torch.float32, torch.float16, torch.bfloat16)


class Batch(reference.Batch):
    """Some tensors of one device; see `clipwise.torch.engines.reference.Batch`. Norms stay on the device."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__(tensors)
        self.xp = namespace_of(torch.empty((), dtype=wide(self.device), device=self.device))
        self._plain = [i for i, t in enumerate(tensors) if self._is_plain(t)]

    def norms(self, p: float) -> Array:
        if p not in (1.0, 2.0, math.inf) or not self._plain:
            return super().norms(p)
        chosen = [self.tensors[i] for i in self._plain]
        found = torch._foreach_norm(chosen, p, dtype=wide(self.device))
        if len(chosen) == len(self.tensors):
            return torch.stack(found)
        every = dict(zip(self._plain, found, strict=True))
        return self._array(
            [
                (every[i] if i in every else reference.tensor_norm(reference.values_of(t), p)).reshape(1)
                for i, t in enumerate(self.tensors)
            ]
        )

    def scale_(self, coefficients: Array) -> None:
        if coefficients.ndim:
            super().scale_(coefficients)
            return
        together = [self.tensors[i] for i in self._plain if self.tensors[i].dtype == torch.float32]
        if together:
            torch._foreach_mul_(together, coefficients.to(torch.float32))
        taken = {id(t) for t in together}
        for tensor in self.tensors:
            if id(tensor) not in taken:
                reference.scale_(reference.values_of(tensor), coefficients)

    def _is_plain(self, tensor: Tensor) -> bool:
        return (
            type(tensor) in (Tensor, nn.Parameter)
            and tensor.dtype in _PLAIN
            and tensor.layout == torch.strided
            and tensor.device == self.device
            and tensor.numel() > 0
        )
