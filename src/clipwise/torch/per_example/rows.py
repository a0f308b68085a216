"""Norms of the rows of a matrix, each the gradient of one example, and what they are made of."""

from collections.abc import Iterator

import torch
from torch import Tensor

from clipwise.torch.engines._arrays import wide

__all__ = ["chunks", "row_norms", "squared", "unchanged", "widened"]

ENTRIES = {"cpu": 1 << 18}
"""Entries that the norms of a layer may take at a time beside what is there, or those of one example."""


def chunks(size: int, cost: int, device: torch.device) -> Iterator[slice]:
    """Examples at a time, so many that `ENTRIES` suffice; a kernel of a device is given more."""
    step = max(1, ENTRIES.get(device.type, 1 << 24) // max(1, cost))
    for start in range(0, size, step):
        yield slice(start, min(size, start + step))


def widened(tensor: Tensor) -> Tensor:
    """In float32 or wider: squares of halves leave their range."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def row_norms(rows: Tensor, p: float = 2.0) -> Tensor:
    """The p-norms over all axes but the first, in the wide float."""
    flat, dtype = widened(rows.reshape(len(rows), -1)), wide(rows.device)
    if rows.device.type != "cpu":
        found: Tensor = torch.linalg.vector_norm(flat, p, dim=1, dtype=dtype)
        return found
    # On the CPU the wide float takes a copy, so only where a power has left the range of the other.
    found = torch.linalg.vector_norm(flat, p, dim=1)
    if not bool(found.isfinite().all()):
        found = torch.linalg.vector_norm(flat, p, dim=1, dtype=dtype)
    return found.to(dtype)


def squared(rows: Tensor) -> Tensor:
    """The sums of squares over all axes but the first, in the wide float."""
    return row_norms(rows).square()


def unchanged(tensor: Tensor, version: int) -> None:
    """RuntimeError if a tensor was written into since its version was this, as the backward pass has it."""
    if tensor._version != version:
        raise RuntimeError(
            f"a tensor of shape {tuple(tensor.shape)} that is needed for gradients was changed by an in-place"
            " operation"
        )
