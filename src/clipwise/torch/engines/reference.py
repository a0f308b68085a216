"""The arithmetic on torch's own operations: every device, every dtype, correct before fast.

Everything is measured in float64 (float32 where a device has none): the squares of 3e20 overflow float32, and
a float32 sum of a hundred million squares is off in the fourth digit. Long tensors are taken piece by piece,
so that a wide copy is never larger than a piece.
"""

import math

import torch
from torch import Tensor

__all__ = ["PIECE", "clamp_", "combine", "cosine", "scale_", "tensor_norm", "unit_norms", "wide"]

PIECE = 1 << 18
"""Entries that are widened at a time: 2 MiB in float64."""

_HALF = (torch.float16, torch.bfloat16)
_TINY = 2.0**-100  # a float32 coefficient below this is near or in the subnormals and has lost digits


def wide(device: torch.device) -> torch.dtype:
    """The dtype in which norms and thresholds live on a device."""
    return torch.float32 if device.type == "mps" else torch.float64


def tensor_norm(values: Tensor, p: float) -> Tensor:
    """The p-norm of one tensor of any shape, 0-d, in its device's wide dtype; 0 if it is empty."""
    dtype = wide(values.device)
    if values.numel() == 0:
        return torch.zeros((), dtype=dtype, device=values.device)
    if p == math.inf and not values.is_complex():
        largest: Tensor = torch.linalg.vector_norm(values, p)
        return largest.to(dtype)
    if values.numel() <= PIECE or not values.is_contiguous():
        return _row_norms(values.reshape(1, -1), p, dtype)[0]
    pieces = values.view(-1).split(PIECE)
    return combine(torch.cat([_row_norms(piece.view(1, -1), p, dtype) for piece in pieces]), p)


def unit_norms(values: Tensor, p: float) -> Tensor:
    """The p-norm of each unit: each slice along axis 0, or the whole of a vector or a single number."""
    if values.ndim < 2 or values.numel() == 0:
        return tensor_norm(values, p).reshape(1)
    dtype = wide(values.device)
    rows = values.reshape(values.shape[0], -1)
    if p == math.inf and not rows.is_complex():
        largest: Tensor = torch.linalg.vector_norm(rows, p, dim=1)
        return largest.to(dtype)
    at_once = max(1, PIECE // rows.shape[1])
    return torch.cat([_row_norms(some, p, dtype) for some in rows.split(at_once)])


def combine(norms: Tensor, p: float) -> Tensor:
    """The p-norm of a whole from the p-norms of its parts, 0-d."""
    if norms.numel() == 0:
        return norms.new_zeros(())
    if p == math.inf:
        return norms.max()
    return _scaled_norms(norms.reshape(1, -1), p)[0]


def _row_norms(rows: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    if rows.is_complex():
        rows = rows.to(dtype.to_complex()).abs()
    if rows.dtype == dtype or p > 4 or p < 0.5:
        return _scaled_norms(rows.to(dtype), p)
    norms: Tensor = torch.linalg.vector_norm(rows, p, dim=1, dtype=dtype)
    return norms


def _scaled_norms(rows: Tensor, p: float) -> Tensor:
    """The p-norm of each row, divided by its largest entry first: no power leaves the dtype's range."""
    largest: Tensor = torch.linalg.vector_norm(rows, math.inf, dim=1)
    if p == math.inf:
        return largest
    divisor = torch.where((largest > 0) & largest.isfinite(), largest, torch.ones_like(largest))
    norms: Tensor = torch.linalg.vector_norm(rows / divisor[:, None], p, dim=1)
    return divisor * norms


def scale_(values: Tensor, coefficient: Tensor) -> None:
    """Multiply in place by a 0-d coefficient, or by one a unit (a vector along axis 0). 1 changes no bit."""
    if coefficient.ndim:
        coefficient = coefficient.reshape(-1, *[1] * (values.ndim - 1)) if values.ndim else coefficient[0]
    coefficient = coefficient.to(values.device)
    if values.dtype in _HALF:
        # A coefficient in half precision would miss the threshold by 0.4 % (bf16) or underflow (fp16).
        # A 0-d one on the CPU is kept in float32 by torch; any other would be rounded first.
        if coefficient.ndim == 0 and values.device.type == "cpu":
            values.mul_(coefficient.float())
        else:
            values.copy_(values.float() * coefficient.float())
        return
    if values.device.type == "cpu" and bool((coefficient < _TINY).any()):
        values.mul_(torch.where(coefficient < _TINY, _TINY, 1.0).to(_real(values)))
        coefficient = torch.where(coefficient < _TINY, coefficient / _TINY, coefficient)
    values.mul_(coefficient.to(_real(values)))


def cosine(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The dot product of two tensors and the squares of their lengths, 0-d in the wide dtype."""
    dtype = wide(before.device)
    sums = [torch.zeros((), dtype=dtype, device=before.device) for _ in range(3)]
    pieces = (_entries(before).split(PIECE), _entries(after).split(PIECE))
    for a, b in zip(*pieces, strict=True):
        a, b = a.to(dtype), b.to(dtype)
        for total, value in zip(sums, (a.dot(b), a.dot(a), b.dot(b)), strict=True):
            total += value
    return sums[0], sums[1], sums[2]


def _entries(values: Tensor) -> Tensor:
    return (torch.view_as_real(values.resolve_conj()) if values.is_complex() else values).reshape(-1)


def _real(values: Tensor) -> torch.dtype:
    return values.dtype.to_real()


def clamp_(values: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Bound every entry in place, a complex one by its modulus; returns how many were beyond, 0-d.

    Bounds are numbers, 0-d, or of the shape of the values; complex values have ``low = -high``. A bound
    beyond what the dtype can hold bounds nothing finite and is left out.
    """
    changed = torch.zeros((), dtype=torch.int64, device=values.device)
    if values.numel() == 0:
        return changed
    one_bound = not isinstance(high, Tensor) or high.ndim == 0
    pieces = values.view(-1).split(PIECE) if one_bound and values.is_contiguous() else (values,)
    for piece in pieces:
        if piece.is_complex():
            modulus = piece.to(wide(piece.device).to_complex()).abs()  # in float32, that of 3e38 overflows
            beyond = modulus > high
            shrunk = torch.where(beyond, high / modulus, torch.ones_like(modulus))
            piece.copy_(torch.where(beyond, piece * shrunk, piece))
        else:
            beyond = (piece > high) | (piece < low)
            _bound_(piece, low, high, torch.finfo(piece.dtype).max)
        changed += beyond.sum()
    return changed


def _bound_(piece: Tensor, low: float | Tensor, high: float | Tensor, largest: float) -> None:
    if isinstance(high, Tensor) or isinstance(low, Tensor):
        limits = torch.as_tensor(low, device=piece.device), torch.as_tensor(high, device=piece.device)
        piece.clamp_(*[limit.clamp(-largest, largest).to(piece.dtype) for limit in limits])
        return
    # Python numbers beyond the dtype would be refused by torch.
    if high <= largest:
        piece.clamp_(max=max(high, -largest))
    if low >= -largest:
        piece.clamp_(min=min(low, largest))
