"""The arithmetic on torch's own operations: every device, every dtype, correct before fast.

Everything is measured in float64 (float32 where a device has none): the squares of 3e20 overflow float32, and
a float32 sum of a hundred million squares is off in the fourth digit. Long tensors are taken piece by piece,
so that a wide copy is never larger than a piece. Plain tensors of the CPU go through `_narrow` first.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clipwise.functional import scaling
from clipwise.namespace import Array
from clipwise.torch.engines import _narrow
from clipwise.torch.engines._arrays import NUMPY, namespace_on, wide

__all__ = [
    "PIECE",
    "Batch",
    "clamp_",
    "clamped",
    "cosine",
    "scale_",
    "scale_units_",
    "tensor_norm",
    "unit_norms",
    "values_of",
    "widest",
]

PIECE = 1 << 18
"""Entries that are widened at a time: 2 MiB in float64."""


def values_of(gradient: Tensor) -> Tensor:
    """The entries that are stored: the gradient itself, or the values of a coalesced sparse one."""
    return gradient._values() if gradient.is_sparse else gradient


class Batch:
    """One or more tensors, processed one at a time: any device and dtype, dense or coalesced sparse.

    Every engine has a `Batch` with these functions. Arrays belong to the namespace ``xp`` and are float64
    (float32 on devices without it); ``n`` is the number of tensors.

    Attributes:
        odd: indices of the tensors that may not be one contiguous block of memory.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.device = tensors[0].device
        self.on_cpu = self.device.type == "cpu"
        self.xp = namespace_on(self.device)
        self._at = _narrow.plain(tensors, self.device)
        """Places of those that `_narrow` takes, and they themselves."""
        all_plain = len(self._at) == len(tensors)
        self._plain = list(tensors) if all_plain else [tensors[i] for i in self._at]
        self.odd: Sequence[int] = [] if all_plain else sorted({*range(len(tensors))}.difference(self._at))

    @property
    def entries(self) -> int:
        """How many entries they have together, a sparse one as if it were dense."""
        return sum(map(Tensor.numel, self.tensors))

    def norms(self, p: float) -> Array:
        """The p-norm of each tensor, ``(n,)``."""
        if not self.on_cpu or p not in (2.0, math.inf):
            return self._array([tensor_norm(values_of(t), p).reshape(1) for t in self.tensors])
        found = np.full(len(self.tensors), np.nan)
        if self._at:
            found[self._at] = _narrow.norms(self._plain) if p == 2.0 else _narrow.largest(self._plain)
        for i in np.flatnonzero(np.isnan(found)).tolist():
            found[i] = tensor_norm(values_of(self.tensors[i]), p).item()
        return self._given(found)

    def norm(self, p: float) -> Array:
        """The p-norm of all tensors together, 0-d."""
        norms = self.norms(p)
        if p == 2.0 and self.on_cpu:  # in fewer operations where no square leaves the range
            total = norms.dot(norms)
            if 1e-280 < total < math.inf:
                return self.xp.sqrt(total)
        return scaling.combine(self.xp, norms, p)

    @property
    def dtype(self) -> torch.dtype:
        """The widest real dtype among the tensors, at least float32."""
        return widest(self.tensors)

    def unit_norms(self, p: float) -> Array:
        """The p-norms of all units, those of the first tensor first; see `unit_norms`."""
        if not self.on_cpu or p != 2.0 or not self._at:
            return self._array([unit_norms(t, p) for t in self.tensors])
        every = dict(zip(self._at, _narrow.unit_norms(self._plain), strict=True))
        for i, tensor in enumerate(self.tensors):
            if i not in every or np.isnan(every[i]).any():
                every[i] = unit_norms(tensor, p).numpy()
        return self._given(np.concatenate([every[i] for i in range(len(self.tensors))]))

    def scale_(self, coefficients: Array) -> None:
        """Multiply in place by one coefficient (0-d), or by one a tensor, ``(n,)``. 1 changes no bit."""
        if not self.on_cpu:  # there a branch would wait for the device
            factors = self._tensor(coefficients)
            for i, tensor in enumerate(self.tensors):
                scale_(values_of(tensor), factors[i] if factors.ndim else factors)
            return
        if isinstance(coefficients, float) or not coefficients.ndim:
            one = float(coefficients)
            if one != 1.0:
                left = self.odd if _narrow.multiply_(self._plain, one) else range(len(self.tensors))
                for i in left:
                    scale_(values_of(self.tensors[i]), torch.tensor(one, dtype=torch.float64, device="cpu"))
            return
        known = np.asarray(coefficients)
        done = _narrow.multiply_each_(self._plain, known[self._at]) if self._plain else np.zeros(0, bool)
        left = self.odd if done.all() else sorted({*self.odd, *np.array(self._at)[~done].tolist()})
        for i in left:
            if known[i] != 1.0:
                scale_(values_of(self.tensors[i]), torch.tensor(known[i], dtype=torch.float64, device="cpu"))

    def scale_units_(self, coefficients: Array) -> None:
        """Multiply each unit in place by its coefficient, in the order of `unit_norms`."""
        counts = [unit_count(t) for t in self.tensors]
        each = self._tensor(coefficients).split(counts)
        left: Sequence[int] = range(len(self.tensors))
        if self.on_cpu:
            changed = np.logical_or.reduceat(np.asarray(coefficients) != 1.0, np.cumsum([0, *counts[:-1]]))
            own = [i for i in self._at if changed[i]]
            written = _narrow.multiply_units_([self.tensors[i] for i in own], [each[i] for i in own])
            changed[[place for place, done in zip(own, written, strict=True) if done]] = False
            left = np.flatnonzero(changed).tolist()
        for i in left:
            scale_units_(self.tensors[i], each[i])

    def clamp_(
        self, low: Array, high: Array, *, report: bool = True
    ) -> tuple[Array, Array | None, Array | None]:
        """Bound every entry in place; see `clamp_`.

        Args:
            low, high: numbers or 0-d.
            report: count exactly, and measure where that costs no pass of its own; otherwise it is only sure
                that the count is 0 where nothing was beyond.

        Returns:
            For each tensor how many entries were beyond, and the 2-norms before and after or None, ``(n,)``
            each.
        """
        if report or not isinstance(low, float) or not self._plain:
            beyond = [clamp_(values_of(t), low, high).reshape(1) for t in self.tensors]
            return self._array(beyond), None, None
        _narrow.bound_(self._plain, low, high)
        for i in self.odd:
            clamp_(values_of(self.tensors[i]), low, high)
        return self.xp.zeros((len(self.tensors),)), None, None

    def clamped(self, low: Array, high: Array) -> tuple[Array, Array, Array]:
        """What `clamp_` would do, without doing it: the three that it returns, ``(n,)`` each."""
        found = [clamped(values_of(t), low, high) for t in self.tensors]
        beyond, before, after = (
            self._array([x.reshape(1) for x in part]) for part in zip(*found, strict=True)
        )
        return beyond, before, after

    def _array(self, parts: Sequence[Tensor]) -> Array:
        whole = torch.cat([part.to(self.device, wide(self.device)) for part in parts])
        return whole.numpy() if self.xp is NUMPY else whole

    def _given(self, values: Array) -> Array:
        """Numpy's values, of the CPU, in this namespace."""
        return values if self.xp is NUMPY else torch.from_numpy(values)

    def _tensor(self, values: Array) -> Tensor:
        found: Tensor = torch.from_numpy(np.asarray(values)) if self.xp is NUMPY else values
        return found


def unit_count(tensor: Tensor) -> int:
    """How many units a tensor has: its length along axis 0, or 1 for a vector or a number."""
    return tensor.shape[0] if tensor.ndim > 1 and tensor.numel() else 1


def widest(tensors: Sequence[Tensor]) -> torch.dtype:
    """The widest real dtype among some tensors, at least float32."""
    found = torch.float32
    for dtype in {tensor.dtype for tensor in tensors}:
        found = torch.promote_types(found, dtype.to_real())
    return found


def tensor_norm(values: Tensor, p: float) -> Tensor:
    """The p-norm of one tensor of any shape, 0-d, in its device's wide dtype; 0 if it is empty."""
    dtype = wide(values.device)
    if values.numel() == 0:
        return torch.zeros((), dtype=dtype, device=values.device)
    if p == math.inf and not values.is_complex():
        largest: Tensor = torch.linalg.vector_norm(values, p)
        return largest.to(dtype)
    if values.numel() <= PIECE:
        return _row_norms(values.reshape(1, -1), p, dtype)[0]
    pieces = _pieces(values)
    # Small results made between large temporaries would lie in their way, so that no memory is used again.
    parts = torch.empty(len(pieces), dtype=dtype, device=values.device)
    for place, piece in enumerate(pieces):
        parts[place] = _row_norms(piece.reshape(1, -1), p, dtype)[0]
    return _scaled_norms(parts.reshape(1, -1), p)[0]


def unit_norms(values: Tensor, p: float) -> Tensor:
    """The p-norm of each unit: each slice along axis 0, or the whole of a vector or a single number.

    A sparse tensor is sparse along axis 0 only.
    """
    if values.is_sparse:
        return _sparse_unit_norms(values, p)
    if values.ndim < 2 or values.numel() == 0:
        return tensor_norm(values, p).reshape(1)
    dtype = wide(values.device)
    if p == math.inf and not values.is_complex():
        largest: Tensor = torch.linalg.vector_norm(values, p, dim=tuple(range(1, values.ndim)))
        return largest.to(dtype)
    found = torch.empty(len(values), dtype=dtype, device=values.device)
    start = 0
    for some in _rows(values):
        found[start : start + len(some)] = _row_norms(some.reshape(len(some), -1), p, dtype)
        start += len(some)
    return found


def _sparse_unit_norms(gradient: Tensor, p: float) -> Tensor:
    if gradient.ndim < 2:
        return unit_norms(gradient._values(), p)
    every = torch.zeros(unit_count(gradient), dtype=wide(gradient.device), device=gradient.device)
    if not gradient._nnz() or not gradient.numel():
        return every
    rows = unit_norms(gradient._values().reshape(gradient._nnz(), -1), p)
    return every.index_copy_(0, gradient._indices()[0], rows)


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


def _pieces(values: Tensor) -> Sequence[Tensor]:
    """The entries in views of about `PIECE` of them, in any order."""
    if not values.is_contiguous():  # channels_last, a transpose: one block of memory, in another order
        values = values.permute(sorted(range(values.ndim), key=values.stride, reverse=True))
    return values.view(-1).split(PIECE) if values.is_contiguous() else _rows(values)


def _rows(values: Tensor) -> Sequence[Tensor]:
    """A tensor with entries in views of whole units, about `PIECE` entries each."""
    parts: Sequence[Tensor] = values.split(max(1, PIECE * len(values) // max(1, values.numel())))
    return parts


def scale_(values: Tensor, coefficient: Tensor) -> None:
    """Multiply in place by a 0-d coefficient, or by one a unit (a vector along axis 0). 1 changes no bit.

    The product is rounded once: a coefficient in the dtype itself would miss the threshold by 0.4 % (bf16),
    and be 0 or short of digits where a gradient of 1e38 is scaled to 1e-3.
    """
    if values.is_complex():
        values = torch.view_as_real(values)  # a product with a complex 1 loses the sign of -0
    dtype = wide(values.device)
    coefficient = coefficient.to(values.device, dtype)
    if coefficient.ndim == 0 or not values.ndim:
        for piece in _pieces(values):
            piece.copy_(piece.to(dtype) * coefficient.reshape(()))
        return
    start = 0
    for piece in _rows(values):
        factors = coefficient[start : start + len(piece)]
        piece.copy_(piece.to(dtype) * factors.reshape(-1, *[1] * (values.ndim - 1)))
        start += len(piece)


def scale_units_(gradient: Tensor, coefficients: Tensor) -> None:
    """Multiply each unit in place by its coefficient."""
    values = values_of(gradient)
    if not values.numel():
        return
    if gradient.ndim < 2:
        coefficients = coefficients[0]
    elif gradient.is_sparse:
        coefficients = coefficients[gradient._indices()[0].to(coefficients.device)]
    scale_(values, coefficients)


def cosine(before: Tensor, after: Tensor, sizes: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The dot product of two tensors and the squares of their lengths, 0-d in the wide dtype.

    Each is divided by its ``size`` first, 0-d, so that no square leaves the range.
    """
    dtype = wide(before.device)
    sums = [torch.zeros((), dtype=dtype, device=before.device) for _ in range(3)]
    first, second = (size.to(before.device, dtype) for size in sizes)
    for a, b in zip(_entries(before).split(PIECE), _entries(after).split(PIECE), strict=True):
        a, b = a.to(dtype) / first, b.to(dtype) / second
        for total, value in zip(sums, (a.dot(b), a.dot(a), b.dot(b)), strict=True):
            total += value
    return sums[0], sums[1], sums[2]


def _entries(values: Tensor) -> Tensor:
    return (torch.view_as_real(values.resolve_conj()) if values.is_complex() else values).reshape(-1)


def clamp_(values: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Bound every entry in place, a complex one by its modulus; returns how many were beyond, 0-d.

    Bounds are numbers, 0-d, or of the shape of the values; complex values have ``low = -high``. A bound
    beyond what the dtype can hold bounds nothing finite and is left out.
    """
    changed = torch.zeros((), dtype=torch.int64, device=values.device)
    if values.numel() == 0:
        return changed
    one_bound = not isinstance(high, Tensor) or high.ndim == 0
    for piece in _pieces(values) if one_bound else (values,):
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


def clamped(values: Tensor, low: float | Tensor, high: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How many entries `clamp_` would bound, and the 2-norms before and after, 0-d; nothing is written."""
    dtype = wide(values.device)
    beyond, after = torch.zeros((2,), dtype=dtype, device=values.device).unbind()
    for piece in _pieces(values) if values.numel() else ():
        own = piece.clone()
        beyond = beyond + clamp_(own, low, high)
        after = torch.hypot(after, tensor_norm(own, 2.0))
    return beyond, tensor_norm(values, 2.0), after


def _bound_(piece: Tensor, low: float | Tensor, high: float | Tensor, largest: float) -> None:
    if isinstance(high, Tensor) or isinstance(low, Tensor):
        limits = torch.as_tensor(low, device=piece.device), torch.as_tensor(high, device=piece.device)
        low, high = limits
        # A bound beyond the dtype becomes Inf, which lets Inf pass.
        piece.clamp_(low.clamp(max=largest).to(piece.dtype), high.clamp(min=-largest).to(piece.dtype))
        return
    # Python numbers beyond the dtype would be refused by torch.
    if high <= largest:
        piece.clamp_(max=max(high, -largest))
    if low >= -largest:
        piece.clamp_(min=min(low, largest))
