"""The namespace of PyTorch. Loaded only where a value came from it; the core imports no framework by name."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import array_api_compat.torch
import numpy as np

from clipwise.namespace._base import Array, Namespace

torch: Any = importlib.import_module("torch")


def owns(value: Any) -> bool:
    """Whether a value is a tensor of PyTorch."""
    return isinstance(value, torch.Tensor)


class TorchNamespace(Namespace):
    """PyTorch's functions, and its own kernels for what the standard lacks."""

    framework = "torch"

    tanh = staticmethod(torch.tanh)
    sigmoid = staticmethod(torch.sigmoid)
    finfo = staticmethod(torch.finfo)

    @classmethod
    def bound(cls, dtype: Any, device: Any = None) -> "TorchNamespace":
        return cls(array_api_compat.torch, dtype, device)

    @classmethod
    def of(cls, x: Array) -> "TorchNamespace":
        return cls(array_api_compat.torch, x.dtype, x.device)

    def like(self, value: Any, *, dtype: Any = None) -> Array:
        dtype = dtype or self._float
        if isinstance(value, (int, float)):  # filled on the device: no copy waits for the host
            if abs(value) > torch.finfo(dtype).max:
                value = math.copysign(math.inf, value)
            return torch.full((), value, dtype=dtype, device=self.device)
        return torch.as_tensor(value, dtype=dtype, device=self.device)

    def where(self, condition: Array, x: Array, y: Array) -> Array:
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.dtype == y.dtype:
            return torch.where(condition, x, y)
        return array_api_compat.torch.where(condition, x, y)  # which promotes as the standard does

    def is_floating(self, x: Array) -> bool:
        return bool(x.is_floating_point())

    @staticmethod
    def on_host(x: Array) -> Any:
        x = x.detach().cpu()
        return np.asarray(x.float() if x.dtype == torch.bfloat16 else x)  # which numpy does not have

    @staticmethod
    def stop_gradient(x: Array) -> Array:
        return x.detach()

    @staticmethod
    def may_be_differentiated(x: Array) -> bool:
        return bool(x.requires_grad and torch.is_grad_enabled())

    def slopes(self, function: Callable[[Array], Array], points: Array) -> Array | None:
        again = torch.is_grad_enabled()
        with torch.enable_grad():
            points = points.detach().requires_grad_()
            values = function(points)
            if not values.requires_grad:
                return None
            # What the backward pass computes in follows from the forward pass.
            with torch.autocast(points.device.type, enabled=False):
                (found,) = torch.autograd.grad(
                    values, points, torch.ones_like(values), create_graph=again, allow_unused=True
                )
        return found

    def between(self, x: Array, low: float, high: float) -> Array:
        # One kernel, and torch's own ReLU6 for 0 and 6.
        largest = torch.finfo(x.dtype).max  # beyond it a number is refused and not made infinite
        low, high = (-math.inf if low < -largest else low), (math.inf if high > largest else high)
        return torch.nn.functional.hardtanh(x, low, high)

    def sqrt(self, x: Array) -> Array:
        return self._sqrt(x) if self.may_be_differentiated(x) else torch.sqrt(x)

    def row_products(self, a: Array, b: Array) -> Array:
        with torch.autocast(a.device.type, enabled=False):  # which would multiply in a narrow type again
            return a @ b.mT


KIND = TorchNamespace
