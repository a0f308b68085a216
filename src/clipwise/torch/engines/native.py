"""The arithmetic in C for the CPU: a table of the tensors' addresses, each read once, sums in float64.

The extension module is optional; without it `available` is false and the reference engine does everything.
It takes dense float32, float64, float16 and bfloat16 tensors whose entries fill one block of memory. Any
other (sparse, complex, sliced, a subclass, ...) goes through the reference engine, one by one.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from clipwise.functional import scaling
from clipwise.namespace import Array
from clipwise.torch.engines import reference
from clipwise.torch.engines._arrays import NUMPY

if TYPE_CHECKING:
    from clipwise.torch.engines import _native
else:
    try:
        from clipwise.torch.engines import _native
    except ImportError:
        _native = None

__all__ = ["Batch", "available", "bind", "gather", "level"]


def available() -> bool:
    """Whether the extension module was built."""
    return _native is not None


def level() -> str:
    """The vector width in use: ``"avx512"``, ``"avx2"``, ``"baseline"`` or ``"neon"``."""
    return _native.level()


def bind(exchange: bool = True) -> bool:
    """Give the extension module access to torch's tensors; called once on import.

    Args:
        exchange: use torch's DLPack exchange table if it has one (2.10 and later) instead of Python
            attributes.

    Returns:
        Whether that table is in use.
    """
    capsule = getattr(Tensor, "__dlpack_c_exchange_api__", None) if exchange else None
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    return _native.bind(capsule, (Tensor, torch.nn.Parameter), dtypes, torch.strided, Tensor.is_neg)


def gather(parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[int] | None, Any]:
    """The gradients of those that have one, their places (None: all have), and the table of the gradients.

    The table holds while the gradients keep their memory. An odd one among them may be replaced by another
    (a sparse one by its coalesced form) before both go to `Batch`.
    """
    return _native.gather(parameters)


class Batch:
    """One or more CPU tensors, processed in one call: any dtype, dense or coalesced sparse.

    Args:
        tensors: the tensors; no two of them share memory.
        table: their table from `gather`.

    Attributes:
        odd: indices of the tensors that are not one contiguous block of memory.
    """

    xp = NUMPY

    def __init__(self, tensors: Sequence[Tensor], table: Any = None) -> None:
        self.tensors = tensors
        self.table: _native.Table = _native.Table(tensors) if table is None else table
        self.odd: list[int] = self.table.odd
        # By tensor, what a sparse one stores is a tensor like any other.
        self._stored, self._by_tensor, self._left = tensors, self.table, self.odd
        if any(tensors[i].is_sparse for i in self.odd):
            self._stored = [reference.values_of(t) for t in tensors]
            self._by_tensor = _native.Table(self._stored)
            self._left = self._by_tensor.odd

    @property
    def entries(self) -> int:
        """How many entries they have together, a sparse one as if it were dense."""
        return self.table.entries + sum(self.tensors[i].numel() for i in self.odd)

    @property
    def unit_counts(self) -> list[int]:
        """How many units each tensor has."""
        return list(self.table.unit_counts)

    def norms(self, p: float) -> Array:
        """The p-norm of each tensor, ``(n,)`` in float64."""
        found = np.zeros(len(self.tensors))
        left: Sequence[int] = self._left
        if _in_c(p):
            self._by_tensor.norms(p, found, torch.get_num_threads())
        else:
            left = range(len(self.tensors))
        for i in left:
            found[i] = reference.tensor_norm(self._stored[i], p).item()
        return found

    def norm(self, p: float) -> Array:
        """The p-norm of all tensors together, 0-d."""
        if _in_c(p) and not self._left:
            return np.float64(self._by_tensor.norm(p, torch.get_num_threads()))
        return scaling.combine(NUMPY, self.norms(p), p)

    @property
    def dtype(self) -> torch.dtype:
        """The widest real dtype among the tensors, at least float32."""
        if self.odd:
            return reference.widest(self.tensors)
        return torch.float64 if self.table.has_float64 else torch.float32

    def unit_norms(self, p: float) -> Array:
        """The p-norms of all units in float64, those of the first tensor first."""
        counts = self.unit_counts
        found = np.zeros(sum(counts))
        left: Sequence[int] = self.table.odd_units
        if _in_c(p):
            self.table.unit_norms(p, found, torch.get_num_threads())
        else:
            left = range(len(self.tensors))
        for i, part in _parts(found, counts, left):
            tensor = self.tensors[i]
            if _has_rows(tensor) and _in_c(p):
                part[tensor._indices()[0].numpy()] = Batch([tensor._values()]).unit_norms(p)
            else:
                part[:] = reference.unit_norms(tensor, p).detach().cpu().numpy()
        return found

    def scale_(self, coefficients: Array) -> None:
        """Multiply in place by one coefficient (0-d), or by one a tensor, ``(n,)``. 1 changes no bit."""
        one = isinstance(coefficients, float) or coefficients.ndim == 0
        if one:
            if coefficients == 1.0:
                return
            self._by_tensor.multiply_(float(coefficients), torch.get_num_threads())
        else:
            if (coefficients == 1.0).all():
                return
            self._by_tensor.scale_(np.ascontiguousarray(coefficients), torch.get_num_threads())
        for i in self._left:
            factor = float(coefficients if one else coefficients[i])
            if factor != 1.0 and self._stored[i].numel():
                reference.scale_(self._stored[i], torch.tensor(factor, dtype=torch.float64, device="cpu"))
        _tell_autograd(self.tensors)

    def scale_units_(self, coefficients: Array) -> None:
        """Multiply each unit in place by its coefficient, in the order of `unit_norms`."""
        factors = np.ascontiguousarray(coefficients, dtype=np.float64)
        if (factors == 1.0).all():
            return
        self.table.scale_units_(factors, torch.get_num_threads())
        for i, part in _parts(factors, self.unit_counts, self.table.odd_units):
            tensor = self.tensors[i]
            if (part == 1.0).all():
                continue
            if _has_rows(tensor):
                Batch([tensor._values()]).scale_units_(part[tensor._indices()[0].numpy()])
            else:
                reference.scale_units_(tensor, torch.from_numpy(part))
        _tell_autograd(self.tensors)

    def clamp_(
        self, low: Array, high: Array, *, report: bool = True
    ) -> tuple[Array, Array | None, Array | None]:
        """Bound every entry in place; see `reference.Batch.clamp_`."""
        low, high = float(low), float(high)
        found = np.zeros((len(self.tensors), 3))
        # The kernel adds up squares as they are, which may leave the range if the entries are float64.
        apart = report and self._by_tensor.has_float64
        before = self.norms(2.0) if apart else None
        self._by_tensor.clamp_(low, high, found, torch.get_num_threads(), report and not apart)
        sizes = np.sqrt(found[:, 1:]) if report else found[:, 1:]
        for i in self._left:
            if report:
                sizes[i, 0] = reference.tensor_norm(self._stored[i], 2.0).item()
            found[i, 0] = reference.clamp_(self._stored[i], low, high).item()
            if report:
                sizes[i, 1] = reference.tensor_norm(self._stored[i], 2.0).item()
        if found[:, 0].any():
            _tell_autograd(self.tensors)
        if before is not None:
            return found[:, 0], before, self.norms(2.0)
        return found[:, 0], *((sizes[:, 0], sizes[:, 1]) if report else (None, None))

    def clamped(self, low: Array, high: Array) -> tuple[Array, Array, Array]:
        """What `clamp_` would do; see `reference.Batch.clamped`."""
        low, high = float(low), float(high)
        if self._by_tensor.has_float64:  # as in `clamp_`
            return reference.Batch(self.tensors).clamped(low, high)
        found = np.zeros((len(self.tensors), 3))
        self._by_tensor.clamp_(low, high, found, torch.get_num_threads(), True, True)
        found[:, 1:] = np.sqrt(found[:, 1:])
        for i in self._left:
            found[i] = reference.clamped(self._stored[i], low, high)
        return found[:, 0], found[:, 1], found[:, 2]


def _has_rows(tensor: Tensor) -> bool:
    """Whether it is sparse along axis 0 alone, and stores any units."""
    if not tensor.is_sparse or tensor.ndim < 2 or tensor.sparse_dim() != 1:
        return False
    return tensor.device.type == "cpu" and tensor._values().numel() > 0


def _in_c(p: float) -> bool:
    return p in (1.0, 2.0, math.inf)


def _parts(whole: Array, counts: Sequence[int], places: Sequence[int]) -> list[tuple[int, Array]]:
    """The part of an array of units that belongs to each of some tensors."""
    if not places:
        return []
    ends = np.cumsum(counts)
    return [(i, whole[ends[i] - counts[i] : ends[i]]) for i in places]


def _increment() -> Callable[[Sequence[Tensor]], None]:
    try:
        increment_version([])
    except (AttributeError, TypeError, RuntimeError):  # before torch 2.6, one tensor at a time

        def one_by_one(tensors: Sequence[Tensor]) -> None:
            for tensor in tensors:
                increment_version(tensor)

        return one_by_one
    return increment_version


_tell_autograd = _increment()
"""Autograd sees only its own operations write; it refuses a backward pass over what has changed since."""

if available():
    bind()
