"""Array operations on PyTorch tensors as values, in float64 if the device has it, without host-device sync.

Used by Keras on PyTorch. `clipwise.torch` writes into gradients and has its own engines.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from clipwise.functional.arithmetic.base import Arithmetic, Axes
from clipwise.namespace import Array, make_namespace

LONG = 1 << 13
"""From so many float32 entries on the CPU measures them row by row in float32: a quarter of the time."""

ROW = 1 << 9
"""How many entries a row has: few enough that their sum in float32 loses no digit that counts."""

EXACT = (1e-15, 1e18)
"""Between these a norm that was measured so has lost no square."""

_NARROW = (torch.float16, torch.bfloat16)
"""Types a coefficient would lose its digits in."""


class TorchArithmetic(Arithmetic):
    """PyTorch tensors on one device.

    On the CPU values can be read, so unnecessary work is skipped. On other devices reading needs a sync, so
    gradients whose squares might overflow are always measured with scaling.
    """

    def __init__(self, like: Array) -> None:
        self.on_cpu = like.device.type == "cpu"
        wide = torch.float32 if like.device.type == "mps" else torch.float64
        super().__init__(make_namespace("torch", wide, like.device))

    def cond(self, flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        return yes() if flag else no()

    def norms_along(self, arrays: Sequence[Array], p: float, axes: Sequence[Axes]) -> list[Array]:
        doubtful = [array for array in arrays if self.may_overflow(array)]
        if p == 2.0 and doubtful and not self.on_cpu:
            return self._carefully(arrays, p, axes)
        if p != 2.0 or any(along is not None for along in axes) or any(a.is_complex() for a in arrays):
            return super().norms_along(arrays, p, axes)
        short = [array for array in arrays if not self._is_long(array)]
        rest = iter(torch._foreach_norm(short, 2.0, dtype=self.xp.float_dtype) if short else ())
        found = [self._long_norm(array) if self._is_long(array) else next(rest) for array in arrays]
        low, high = self.lowest**0.5, self.highest**0.5
        for i, array in enumerate(arrays) if doubtful else ():
            if self.may_overflow(array) and not low <= float(found[i]) <= high:
                found[i] = self._norm(array, p, None)
        return found

    def _is_long(self, array: Array) -> bool:
        few = array.numel() < LONG
        return not few and self.on_cpu and array.dtype == torch.float32 and array.is_contiguous()

    def _long_norm(self, array: Array) -> Array:
        flat, wide = array.view(-1), self.xp.float_dtype
        rows, left = divmod(flat.numel(), ROW)
        norms = torch.linalg.vector_norm(flat[: rows * ROW].view(rows, ROW), dim=1)
        norm = torch.linalg.vector_norm(norms, dtype=wide)
        if left:
            norm = torch.hypot(norm, torch.linalg.vector_norm(flat[-left:], dtype=wide))
        if EXACT[0] <= float(norm) <= EXACT[1]:
            return norm
        return torch.linalg.vector_norm(array, dtype=wide)

    def multiplied(self, array: Array, coefficient: Array) -> Array:
        if coefficient.ndim == 0 and array.dtype not in _NARROW:
            return array * coefficient  # a number does not widen the product: one pass
        return super().multiplied(array, coefficient)

    def emptied(self, arrays: Sequence[Array], flag: Array) -> list[Array]:
        if self.on_cpu and not flag:
            return list(arrays)
        return super().emptied(arrays, flag)

    def chosen(self, arrays: Sequence[Array], coefficients: Sequence[Array]) -> list[Array]:
        if not self.on_cpu:
            return super().chosen(arrays, coefficients)
        different = {id(c): c for c in coefficients}  # often one for all of them
        idle = {key: bool((c == 1.0).all()) for key, c in different.items()}
        return [a if idle[id(c)] else self._scaled(a, c) for a, c in zip(arrays, coefficients, strict=True)]

    def _scaled(self, array: Array, coefficient: Array) -> Array:
        if coefficient.ndim == 0:
            return self.multiplied(array, coefficient)  # it is not 1
        return super().chosen([array], [coefficient])[0]
