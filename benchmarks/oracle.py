"""What the gradients should be after a call: plain float64 numpy, no code shared with what is measured."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["CheckError", "assert_close", "assert_same", "assert_scaled", "tensor_norms", "unit_norms"]

PIECE = 1 << 20
ROWS, COLUMNS = 32, 512  # of each tensor are compared entry by entry


class CheckError(AssertionError):
    """A call did not do what the row of the table says it does."""


def _array(values: Tensor) -> np.ndarray:
    """As numpy: float32 holds every bf16."""
    values = values.detach()
    wide = values if values.dtype in (torch.float32, torch.float64) else values.float()
    found: np.ndarray = wide.cpu().numpy()
    return found


def tensor_norms(tensors: Sequence[Tensor]) -> np.ndarray:
    """The 2-norm of each tensor."""
    norms = []
    for tensor in tensors:
        total = 0.0
        for piece in tensor.detach().reshape(-1).split(PIECE):
            wide = _array(piece).astype(np.float64)
            total += float(np.dot(wide, wide))
        norms.append(np.sqrt(total))
    return np.array(norms)


def unit_norms(tensor: Tensor) -> np.ndarray:
    """The 2-norm of each slice along axis 0; a vector is one unit."""
    if tensor.ndim < 2:
        return tensor_norms([tensor])
    rows = tensor.detach().reshape(tensor.shape[0], -1)
    pieces = rows.split(max(1, PIECE // rows.shape[1]))
    squares = [np.square(_array(piece).astype(np.float64)).sum(axis=1) for piece in pieces]
    norms: np.ndarray = np.sqrt(np.concatenate(squares))
    return norms


def sample(tensor: Tensor) -> np.ndarray:
    """Some rows and columns of a tensor, in float64."""
    rows = tensor.detach().reshape(tensor.shape[0] if tensor.ndim > 1 else 1, -1)
    chosen = torch.linspace(0, rows.shape[0] - 1, min(ROWS, rows.shape[0])).long().unique()
    found: np.ndarray = _array(rows[chosen.to(rows.device)][:, :COLUMNS]).astype(np.float64)
    return found


def _sampled(coefficients: np.ndarray, units: int) -> np.ndarray:
    """The coefficients of the sampled rows."""
    if len(coefficients) == 1:
        return coefficients
    chosen = torch.linspace(0, units - 1, min(ROWS, units)).long().unique().numpy()
    rows: np.ndarray = coefficients[chosen][:, None]
    return rows


def assert_same(what: str, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
    """Bit for bit."""
    for index, (old, new) in enumerate(zip(before, after, strict=True)):
        if not torch.equal(old, new):
            raise CheckError(f"{what}: tensor {index} was changed, and nothing was to be clipped")


def assert_scaled(
    what: str,
    before: Sequence[Tensor],
    after: Sequence[Tensor],
    coefficients: Sequence[np.ndarray],
    tolerance: float,
) -> None:
    """Each tensor times its coefficient, or times one for each of its units; to a relative tolerance."""
    for index, (old, new, own) in enumerate(zip(before, after, coefficients, strict=True)):
        expected = sample(old) * _sampled(own, old.shape[0] if old.ndim else 1)
        assert_close(f"{what}: tensor {index}", sample(new), expected, tolerance)


def assert_close(what: str, found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Every entry within a relative tolerance."""
    off = np.abs(found - expected) - tolerance * np.abs(expected)
    if not np.all(off <= 1e-30):
        worst = np.unravel_index(np.nanargmax(np.where(np.isnan(off), np.inf, off)), off.shape)
        raise CheckError(f"{what}: {found[worst]!r} in place of {expected[worst]!r} (allowed {tolerance:g})")
