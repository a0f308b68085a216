"""Plain tensors of the CPU, many in a call and in their own width: few operations a tensor, no wide copy.

Short tensors are put side by side and measured in float64. Long ones are measured in rows of `ROW` entries in
float32, and the rows added up in float64: within 1e-6. A norm that cannot be trusted (its squares left
float32's range) is NaN, for the reference functions to measure.
"""

import math
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor, nn

from clipwise.namespace import Array

__all__ = [
    "bound_",
    "largest",
    "multiply_",
    "multiply_each_",
    "multiply_units_",
    "norms",
    "plain",
    "unit_norms",
]

ROW = 512
"""Entries whose squares are added in float32: at worst 5e-7 off, if all are equal."""
SHORT = 1 << 10
"""Entries up to which a tensor is measured in float64."""
FEW = 8
"""Tensors of one shape that are not worth putting side by side."""
GATHERED = (1 << 15) - 1
"""Entries that are put side by side: with more torch waits for its threads, which others may keep busy."""
WIDENED = 1 << 14
"""Entries that are widened to float64 at a time."""
LONG = 1 << 22
"""Entries of float32 that are measured in one call."""
AT_ONCE = 1 << 17
"""Entries of halves that are widened to float32 at a time."""
LEAST = 2.0**-100
"""Coefficients below are not held by float32 with all their digits, nor are products with large entries."""

_TYPES = {Tensor, nn.Parameter}
_DTYPES = {torch.float32, torch.float16, torch.bfloat16}
_dtype, _layout, _device, _on_cpu, _shape = map(attrgetter, ("dtype", "layout", "device", "is_cpu", "shape"))


def plain(tensors: Sequence[Tensor], device: torch.device) -> Sequence[int]:
    """Places of the tensors that are one block of float32 or halves, in order, with at least one entry."""
    return range(len(tensors)) if _all_plain(tensors, device) else _plain_ones(tensors, device)


def _all_plain(tensors: Sequence[Tensor], device: torch.device) -> bool:
    return (
        set(map(type, tensors)) <= _TYPES
        and set(map(_dtype, tensors)) <= _DTYPES
        and set(map(_layout, tensors)) == {torch.strided}
        and (all(map(_on_cpu, tensors)) if device.type == "cpu" else set(map(_device, tensors)) == {device})
        and all(map(Tensor.is_contiguous, tensors))
        and all(map(Tensor.numel, tensors))
        and not any(map(Tensor.is_neg, tensors))
    )


def _plain_ones(tensors: Sequence[Tensor], device: torch.device) -> list[int]:
    return [i for i, tensor in enumerate(tensors) if _all_plain((tensor,), device)]


def norms(tensors: Sequence[Tensor]) -> Array:
    """The 2-norms, ``(n,)`` in float64; NaN: not to be trusted, or NaN."""
    vectors = _Vectors(len(tensors))
    found = vectors.norms
    by_rows: list[int] = []
    for size, places in _alike(tensors):
        if size > SHORT and (size > GATHERED or not size % ROW or len(places) < FEW):
            by_rows += places
            if len(places) > 1 and size <= GATHERED and not size % ROW:
                found[places] = _gathered_norms(tensors, places, size)
            else:
                for i in places:
                    vectors.add(i, _norms_of_rows(tensors[i].view(-1)))
        elif len(places) < FEW:
            for i in places if size else ():
                vectors.add(i, tensors[i].view(-1))
        else:
            for some in _some(places, size):
                found[some] = _wide_norms(_side_by_side([tensors[i] for i in some]), size)
    vectors.measure()
    if by_rows:
        found[by_rows] = _trusted(found[by_rows], lambda: [tensors[i].numel() for i in by_rows])
    return found


class _Vectors:
    """Short vectors, the entries of a tensor or the norms of its rows, measured together in float64."""

    def __init__(self, count: int) -> None:
        self.norms = np.zeros(count)
        self._forget()

    def _forget(self) -> None:
        self._places: list[int] = []
        self._vectors: list[Tensor] = []
        self._starts = [0]

    def add(self, place: int, vector: Tensor) -> None:
        self._places.append(place)
        self._vectors.append(vector)
        self._starts.append(self._starts[-1] + vector.numel())
        if self._starts[-1] > WIDENED:
            self.measure()

    def measure(self) -> None:
        if self._vectors:
            entries = torch.cat(self._vectors).double().numpy()
            squares = np.multiply(entries, entries, out=entries)
            self.norms[self._places] = np.sqrt(np.add.reduceat(squares, self._starts[:-1]))
            self._forget()


def _gathered_norms(tensors: Sequence[Tensor], places: list[int], size: int) -> Array:
    """The norms of tensors of one shape, by their rows."""
    some = (_side_by_side([tensors[i] for i in few]) for few in _some(places, size))
    each = [torch.linalg.vector_norm(_single(entries.view(-1, ROW)), 2.0, dim=1) for entries in some]
    rows = torch.cat(each).double().view(len(places), -1)
    return torch.linalg.vector_norm(rows, 2.0, dim=1).numpy()


def _norms_of_rows(entries: Tensor) -> Tensor:
    """The norms of the rows of one long tensor, the last perhaps shorter."""
    length, at_once = entries.numel(), LONG if entries.dtype == torch.float32 else AT_ONCE
    over = length % ROW
    rows = (entries[:-over] if over else entries).view(-1, ROW)
    pieces = rows.split(at_once // ROW) if length > at_once else (rows,)
    each = [torch.linalg.vector_norm(_single(piece), 2.0, dim=1) for piece in pieces]
    if over:
        each.append(torch.linalg.vector_norm(entries[-over:].float(), 2.0).view(1))
    return torch.cat(each) if len(each) > 1 else each[0]


def _alike(tensors: Sequence[Tensor]) -> Sequence[tuple[int, list[int]]]:
    """The number of entries and the places of the tensors of each shape."""
    return _alike_shapes(tuple(map(_shape, tensors)))


@lru_cache(maxsize=64)
def _alike_shapes(shapes: tuple[torch.Size, ...]) -> Sequence[tuple[int, list[int]]]:
    found: dict[torch.Size, list[int]] = {}
    for place, shape in enumerate(shapes):
        found.setdefault(shape, []).append(place)
    return [(shape.numel(), places) for shape, places in found.items()]


def _some(places: list[int], size: int) -> list[list[int]]:
    at_once = max(1, GATHERED // size)
    return [places[start : start + at_once] for start in range(0, len(places), at_once)]


_own = threading.local()


def _side_by_side(tensors: list[Tensor]) -> Tensor:
    """The entries of tensors of one shape, one tensor after the other, until the next call."""
    first = tensors[0]
    if len(tensors) == 1:
        return first.view(-1)
    if not first.ndim:
        return torch.stack(tensors)
    count = len(tensors) * first.numel()
    if count <= WIDENED:
        return torch.cat(tensors).view(-1)
    flat = _memory()[0].view(first.dtype)[:count]
    torch.cat(tensors, out=flat.view(-1, *first.shape[1:]))
    return flat


def _single(rows: Tensor) -> Tensor:
    """Rows of at most `AT_ONCE` entries, if they are halves, in float32 until the next call."""
    if rows.dtype == torch.float32:
        return rows
    own = _memory()[1]
    return (own if len(rows) == len(own) else own[: len(rows)]).copy_(rows)


def _memory() -> tuple[Tensor, Tensor]:
    """What this thread works in: fresh memory would cost more, page by page, than what is done in it."""
    if not hasattr(_own, "memory"):
        with torch.inference_mode(False):  # or it could not be written outside of it
            shapes = (GATHERED,), (AT_ONCE // ROW, ROW)
            _own.memory = tuple(torch.empty(shape, dtype=torch.float32, device="cpu") for shape in shapes)
    found: tuple[Tensor, Tensor] = _own.memory
    return found


def _wide_norms(entries: Tensor, length: int) -> Array:
    """The norms of all rows of so many entries, in float64."""
    if len(entries) <= WIDENED:
        return torch.linalg.vector_norm(entries.view(-1, length).double(), 2.0, dim=1).numpy()
    # Small results made between large temporaries would lie in their way, so that no memory is used again.
    rows, at_once = entries.view(-1, length), max(1, WIDENED // length)
    found = torch.empty(len(rows), dtype=torch.float64, device="cpu")
    widened = torch.empty(at_once, length, dtype=torch.float64, device="cpu")
    for start in range(0, len(rows), at_once):
        some = rows[start : start + at_once]
        own = widened[: len(some)].copy_(some)
        torch.linalg.vector_norm(own, 2.0, dim=1, out=found[start : start + len(some)])
    return found.numpy()


def _trusted(norms: Array, lengths: Callable[[], list[int]]) -> Array:
    """NaN in place of norms that squares beyond float32's range, or below it, may have spoilt."""
    if norms.min() > 1e-9 and norms.max() < math.inf:  # of up to 1e12 entries
        return norms
    return np.where(np.isfinite(norms) & (norms >= 1e-15 * np.sqrt(lengths())), norms, np.nan)


def unit_norms(tensors: Sequence[Tensor]) -> list[Array]:
    """The 2-norms of the units of each tensor, as `norms` gives them."""
    found: dict[int, Array] = {}
    for size, places in _alike(tensors):
        shape = tensors[places[0]].shape
        if len(shape) < 2 or not size:
            vectors = norms([tensors[i] for i in places])
            found |= dict(zip(places, vectors.reshape(-1, 1), strict=True))
            continue
        length = size // shape[0]
        for some in _some(places, size):
            every = _row_norms(_side_by_side([tensors[i] for i in some]), length)
            found |= dict(zip(some, every.reshape(len(some), -1), strict=True))
    return [found[place] for place in range(len(tensors))]


def _row_norms(entries: Tensor, length: int) -> Array:
    if entries.dtype == torch.float32 and len(entries) > SHORT and length <= ROW:
        rows = entries.view(-1, length)
        return _trusted(torch.linalg.vector_norm(rows, 2.0, dim=1).double().numpy(), lambda: [length])
    if length > GATHERED:
        return norms(entries.view(-1, length).unbind())
    return _wide_norms(entries, length)


def largest(tensors: Sequence[Tensor]) -> Array:
    """The norms of order infinity, exact."""
    return torch.stack(torch._foreach_norm(list(tensors), math.inf)).double().numpy()


def multiply_(tensors: Sequence[Tensor], coefficient: float) -> bool:
    """Multiply by a coefficient, in float32, and rounded once if of halves.

    Returns:
        Whether it is done: not where float32 does not hold the coefficient.
    """
    if 0 < coefficient < LEAST:
        return False
    if tensors:
        single = torch.scalar_tensor(coefficient, dtype=torch.float32, device="cpu")
        torch._foreach_mul_(list(tensors), single)
    return True


def multiply_each_(tensors: Sequence[Tensor], coefficients: Array) -> Array:
    """Multiply each by its own coefficient; as `multiply_`. One that is 1 is not written."""
    done, single = _held(coefficients), torch.from_numpy(coefficients.astype(np.float32)).unbind()
    places = np.flatnonzero(done & (coefficients != 1.0)).tolist()
    if len(places) == len(tensors):
        torch._foreach_mul_(list(tensors), single)
    elif places:
        torch._foreach_mul_([tensors[i] for i in places], [single[i] for i in places])
    return done


def multiply_units_(tensors: Sequence[Tensor], coefficients: Sequence[Tensor]) -> list[bool]:
    """Multiply each unit by its coefficient; as `multiply_`."""
    if not tensors:
        return []
    every = torch.cat(list(coefficients))
    counts = list(map(len, coefficients))
    held = np.logical_and.reduceat(_held(every.numpy()), np.cumsum([0, *counts[:-1]]))
    done: list[bool] = []
    chosen: list[Tensor] = []
    factors: list[Tensor] = []
    for tensor, own, fits in zip(tensors, every.float().split(counts), held.tolist(), strict=True):
        own = own.view(-1, *[1] * (tensor.ndim - 1)) if tensor.ndim > 1 else own[0]
        size = tensor.numel()
        at_once = GATHERED * len(tensor) // size if tensor.ndim > 1 else 1
        done.append(fits and at_once > 0)
        if not done[-1]:
            continue
        if size > GATHERED and tensor.ndim > 1 and tensor.dtype != torch.float32:
            chosen += tensor.split(at_once)  # what is multiplied at once is widened as a whole
            factors += own.split(at_once)
        else:
            chosen.append(tensor)
            factors.append(own)
    if chosen:
        torch._foreach_mul_(chosen, factors)
    return done


def _held(coefficients: Array) -> Array:
    return (coefficients == 0) | ~(coefficients < LEAST)


def bound_(tensors: Sequence[Tensor], low: float, high: float) -> None:
    """Bound every entry; a bound beyond what the dtype can hold bounds nothing finite."""
    dtypes = set(map(_dtype, tensors))
    for dtype in dtypes:
        some = list(tensors) if len(dtypes) == 1 else [t for t in tensors if t.dtype == dtype]
        most = torch.finfo(dtype).max
        if low >= -most:
            torch._foreach_clamp_min_(some, min(low, most))
        if high <= most:
            torch._foreach_clamp_max_(some, max(high, -most))
