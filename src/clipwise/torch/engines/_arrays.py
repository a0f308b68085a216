"""Where norms live: numpy for the CPU, torch on every other device.

The few operations on a few norms that a step needs cost a third on numpy of what they cost on torch.
"""

from functools import lru_cache

import array_api_compat.numpy
import numpy as np
import torch
from torch import Tensor

from clipwise.namespace import Array, Namespace, namespace_of

NUMPY = Namespace(array_api_compat.numpy, np.float64, None)


def wide(device: torch.device) -> torch.dtype:
    """The dtype in which norms and thresholds live on a device."""
    return torch.float32 if device.type == "mps" else torch.float64


@lru_cache(maxsize=64)
def namespace_on(device: torch.device) -> Namespace:
    """The namespace of the norms of tensors on a device: numpy, or torch bound to it and its wide dtype."""
    if device.type == "cpu":
        return NUMPY
    return namespace_of(torch.empty((), dtype=wide(device), device=device))


def array_on(xp: Namespace, value: Tensor | float) -> Array:
    """A number or a tensor of any device as a wide array of this namespace."""
    if xp is NUMPY:
        return np.asarray(value.detach().cpu().to(torch.float64) if isinstance(value, Tensor) else value)
    if isinstance(value, Tensor) and (value.ndim or value.device.type != "cpu"):
        return value.detach().to(xp.device, wide(torch.device(xp.device)))
    return xp.asarray(float(value))  # filled on the device: a copy from the host would wait


def tensor_of(value: Array) -> Tensor:
    """An array of either namespace as a tensor, where it is."""
    return value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
