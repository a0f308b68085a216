"""The arithmetic in Triton, for CUDA: one launch a dtype over a table of addresses.

Sums are float64 and always taken in the same order. Nothing waits for the device. Tensors that are not plain
(sparse, complex, subclasses, with gaps in memory), and other orders than 1, 2 and infinity, go through the
reference functions.
"""

import importlib.util
import itertools
import math
from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipwise.functional import scaling
from clipwise.namespace import Namespace, namespace_of
from clipwise.torch.engines import reference
from clipwise.torch.engines._triton_tables import DTYPES, WIDTHS, Integers, Segments, ShortUnits

__all__ = ["Batch", "available"]

_ORDERS = {2.0: 2, 1.0: 1, math.inf: 0}
_TYPES = (Tensor, torch.nn.Parameter)


def available() -> bool:
    """Whether Triton is installed; it is imported when the first kernel runs."""
    return importlib.util.find_spec("triton") is not None


@lru_cache(maxsize=64)
def _namespace(device: torch.device) -> Namespace:
    return namespace_of(torch.empty((), dtype=torch.float64, device=device))


class Batch:
    """Some tensors, those of a dtype in one launch: on one CUDA device, dense or coalesced sparse.

    The functions are those of `clipwise.torch.engines.reference.Batch`; arrays are float64 on the device.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self.tensors = tensors
        self.device = tensors[0].device
        self.xp = _namespace(self.device)
        self._plain: dict[torch.dtype, list[int]] = {}
        self.odd: list[int] = []
        for i, tensor in enumerate(tensors):
            if _is_plain(tensor, self.device):
                self._plain.setdefault(tensor.dtype, []).append(i)
            else:
                self.odd.append(i)
        self._segments: list[Segments] | None = None
        self._units: tuple[list[Segments | ShortUnits], list[int]] | None = None

    @property
    def entries(self) -> int:
        """How many entries they have together, a sparse one as if it were dense."""
        return sum(tensor.numel() for tensor in self.tensors)

    def norms(self, p: float) -> Tensor:
        """The p-norm of each tensor, ``(n,)``."""
        results = self._empty(len(self.tensors))
        odd: Sequence[int] = range(len(self.tensors))
        if p in _ORDERS:
            odd = self.odd
            with self._on_device():
                for segments in self._by_tensor():
                    segments.norms(_ORDERS[p], results)
        for i in odd:
            results[i] = reference.tensor_norm(reference.values_of(self.tensors[i]), p)
        return results

    def norm(self, p: float) -> Tensor:
        """The p-norm of all tensors together, 0-d."""
        norm: Tensor = scaling.combine(self.xp, self.norms(p), p)
        return norm

    @property
    def dtype(self) -> torch.dtype:
        """The widest real dtype among the tensors, at least float32."""
        return reference.widest(self.tensors)

    @cached_property
    def unit_counts(self) -> list[int]:
        """How many units each tensor has: its length along axis 0, or 1 for a vector or a number."""
        return [reference.unit_count(tensor) for tensor in self.tensors]

    def unit_norms(self, p: float) -> Tensor:
        """The p-norms of all units, those of the first tensor first."""
        results = self._empty(sum(self.unit_counts))
        odd: Sequence[int] = range(len(self.tensors))
        if p in _ORDERS:
            with self._on_device():
                groups, odd = self._by_unit()
                for group in groups:
                    group.norms(_ORDERS[p], results)
        parts = results.split(self.unit_counts)
        for i in odd:
            parts[i].copy_(reference.unit_norms(self.tensors[i], p))
        return results

    def scale_(self, coefficients: Tensor) -> None:
        """Multiply in place by one coefficient (0-d), or by one a tensor, ``(n,)``. 1 is not even written."""
        coefficients = self._wide(coefficients)
        with self._on_device():
            for segments in self._by_tensor():
                segments.scale_(coefficients)
        self._was_changed(self.odd)
        for i in self.odd:
            own = coefficients[i] if coefficients.ndim else coefficients
            reference.scale_(reference.values_of(self.tensors[i]), own)

    def scale_units_(self, coefficients: Tensor) -> None:
        """Multiply each unit in place by its coefficient, in the order of `unit_norms`."""
        coefficients = self._wide(coefficients)
        with self._on_device():
            groups, odd = self._by_unit()
            for group in groups:
                group.scale_(coefficients)
        self._was_changed(odd)
        parts = coefficients.split(self.unit_counts)
        for i in odd:
            reference.scale_units_(self.tensors[i], parts[i])

    def clamp_(
        self, low: float | Tensor, high: float | Tensor, *, report: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Bound every entry in place; numbers or 0-d. What lies beyond is counted, NaN is left alone.

        Returns:
            For each tensor how many entries were beyond, and the 2-norms before and after, ``(n,)`` each.
        """
        results = self._empty(3, len(self.tensors))
        lowest, highest = (self._wide(self.xp.asarray(bound)) for bound in (low, high))
        with self._on_device():
            for segments in self._by_tensor():
                segments.clamp_(lowest, highest, results)
        self._was_changed(self.odd)
        for i in self.odd:
            values = reference.values_of(self.tensors[i])
            results[1, i] = reference.tensor_norm(values, 2.0)
            results[0, i] = reference.clamp_(values, lowest.to(values.device), highest.to(values.device))
            results[2, i] = reference.tensor_norm(values, 2.0)
        return results[0], results[1], results[2]

    def clamped(self, low: float | Tensor, high: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What `clamp_` would do, without doing it; by the reference engine."""
        return reference.Batch(self.tensors).clamped(low, high)

    def _by_tensor(self) -> list[Segments]:
        if self._segments is None:
            self._segments = []
            for dtype, places in self._plain.items():
                tensors = [self.tensors[i] for i in places]
                addresses = np.array([t.data_ptr() for t in tensors], dtype=np.int64)
                counts = np.array([t.numel() for t in tensors], dtype=np.int64)
                found = Segments(self.device, dtype, addresses, counts, np.array(places, dtype=np.int64))
                self._segments.append(found)
        return self._segments

    def _by_unit(self) -> tuple[list[Segments | ShortUnits], list[int]]:
        if self._units is None:
            odd = list(self.odd)
            groups: list[Segments | ShortUnits] = []
            starts = list(itertools.accumulate(self.unit_counts, initial=0))
            for dtype, places in self._plain.items():
                long: list[tuple[Integers, Integers, Integers]] = []
                short: dict[tuple[int, bool], list[tuple[int, int, int, int]]] = {}
                for i in places:
                    tensor, units = self.tensors[i], starts[i + 1] - starts[i]
                    length, size = tensor.numel() // units, tensor.element_size()
                    if units > 1 and tensor.stride(0) != length:
                        odd.append(i)
                        continue
                    address = tensor.data_ptr()
                    width = next((width for most, width in WIDTHS if length <= most), None)
                    if width is None:
                        steps = np.arange(units, dtype=np.int64)
                        every = np.full(units, length, dtype=np.int64)
                        long.append((address + steps * (length * size), every, starts[i] + steps))
                    else:
                        aligned = width > 16 and length % 8 == 0 and address % 16 == 0
                        short.setdefault((width, aligned), []).append((address, units, length, starts[i]))
                if long:
                    columns = [np.concatenate(column) for column in zip(*long, strict=True)]
                    groups.append(Segments(self.device, dtype, *columns))
                groups += [ShortUnits(self.device, dtype, *kind, found) for kind, found in short.items()]
            self._units = groups, odd
        return self._units

    def _was_changed(self, odd: Sequence[int]) -> None:
        """Tell autograd of what the kernels wrote, as torch's own in-place operations do."""
        apart = set(odd)
        torch.autograd.graph.increment_version([t for i, t in enumerate(self.tensors) if i not in apart])

    def _on_device(self) -> Any:
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float64, device=self.device)

    def _wide(self, values: Tensor) -> Tensor:
        return values.detach().to(self.device, torch.float64, non_blocking=True).contiguous()


def _is_plain(tensor: Tensor, device: torch.device) -> bool:
    """Whether the entries are one block of floating-point numbers on the device, in any order."""
    return (
        type(tensor) in _TYPES
        and tensor.dtype in DTYPES
        and tensor.layout is torch.strided
        and tensor.device == device
        and not tensor.is_neg()
        and not tensor._is_zerotensor()
        and (tensor.is_contiguous() or _is_dense(tensor))
    )


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor fills its memory without gaps and without sharing an entry."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return False
            expected *= size
    return True
