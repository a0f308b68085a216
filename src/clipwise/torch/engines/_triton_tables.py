"""The tables of addresses that the Triton kernels work over, and the launches over them.

The tables are built on the host and sent through pinned memory, so that nothing waits; what lies on the
device already is not sent again.
"""

import importlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Integers = NDArray[np.int64]

DTYPES = {
    torch.float32: "float32",
    torch.bfloat16: "int16",
    torch.float16: "float16",
    torch.float64: "float64",
}
"""As what the kernels read each dtype."""

WIDTHS = ((64, 16), (512, 128), (4096, 1024))
"""Units up to so long are taken so many entries at a time; longer ones as segments."""

_CHUNK = 8192  # entries a program, 32 of them a thread
_PARTS = 1024  # chunk results that are added at a time
_TILE = 4096  # entries that a program of short units takes at a time


@lru_cache(maxsize=1)
def _kernels() -> Any:
    return importlib.import_module("clipwise.torch.engines._triton_kernels")


@lru_cache(maxsize=16)
def _entry(dtype: torch.dtype) -> Any:
    return getattr(importlib.import_module("triton.language"), DTYPES[dtype])


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    if all(grid):
        kernel[grid](*arguments, **constants, num_warps=8, enable_fp_fusion=True)


class _Resident:
    """The latest tables of integers that were sent to a device. What is there is not sent again.

    A table is found by what it was built from. It holds addresses and sizes only, so none is ever
    out of date.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.tables: OrderedDict[Any, tuple[Tensor, Any, Any]] = OrderedDict()
        self.captured: list[Any] = []  # CUDA graphs read theirs again whenever they are replayed
        self.lock = threading.Lock()

    def get(self, device: torch.device, key: tuple[Any, ...], build: Callable[[], Integers]) -> Tensor:
        if device.type == "cpu":  # in Triton's interpreter
            return torch.from_numpy(build())
        stream = torch.cuda.current_stream(device)
        capturing = torch.cuda.is_current_stream_capturing()
        with self.lock:
            found = self.tables.get((device, key))
            if found is None:
                # torch does not use pinned memory anew before the copies out of it are done.
                staging = torch.from_numpy(build()).pin_memory()
                table = staging.to(device, non_blocking=True)
                if capturing:
                    self.captured.append((staging, table))
                    return table
                sent = torch.cuda.Event()
                sent.record(stream)
                found = self.tables[device, key] = (table, stream, sent)
                if len(self.tables) > self.room:
                    self.tables.popitem(last=False)
            else:
                self.tables.move_to_end((device, key))
        table, sender, sent = found
        if capturing:  # nothing else may be waited for there, and what came before is done
            self.captured.append(table)
        elif stream != sender:
            stream.wait_event(sent)
            table.record_stream(stream)
        return table


_resident = _Resident(room=64)


class Segments:
    """Pieces of memory of one dtype, each with a norm and a coefficient of its own."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        addresses: Integers,
        counts: Integers,
        places: Integers,
    ) -> None:
        self.dtype = dtype
        chunks = -(-counts // _CHUNK)
        self.segments, self.chunks = len(counts), int(chunks.sum())

        def layout() -> Integers:
            firsts = np.concatenate([[0], chunks.cumsum()])
            owners = np.repeat(np.arange(len(counts)), chunks)
            return np.concatenate([counts, firsts, places, owners])

        self.addresses = _resident.get(device, ("addresses", addresses.tobytes()), lambda: addresses)
        self.layout = _resident.get(device, ("layout", counts.tobytes(), places.tobytes()), layout)
        self.table = (self.addresses, self.layout, self.segments)

    def norms(self, order: int, results: Tensor) -> None:
        """Write the norm of each segment to its place."""
        scaled = order == 2 and self.dtype == torch.float64
        partials = results.new_empty((1 + scaled) * self.chunks)
        constants = {"ORDER": order, "SCALED": scaled}
        kernels = _kernels()
        entries = {"DTYPE": _entry(self.dtype), "BLOCK": _CHUNK}
        _launch(kernels.norms, (self.chunks,), *self.table, self.chunks, partials, **constants, **entries)
        self._finish(partials, 1, results, **constants)

    def _finish(self, partials: Tensor, rows: int, results: Tensor, **constants: Any) -> None:
        grid, columns = (self.segments, rows), results.shape[-1]
        arguments = (partials, self.chunks, self.layout, self.segments, results, columns)
        _launch(_kernels().finish, grid, *arguments, **constants, BLOCK=_PARTS)

    def scale_(self, coefficients: Tensor) -> None:
        constants = {"EACH": coefficients.ndim > 0, "DTYPE": _entry(self.dtype), "BLOCK": _CHUNK}
        _launch(_kernels().scale, (self.chunks,), *self.table, coefficients, **constants)

    def clamp_(self, low: Tensor, high: Tensor, results: Tensor) -> None:
        """Bound the entries and write three rows: how many were beyond, the 2-norms before and after."""
        sums = self.dtype != torch.float64  # its squares may leave the range
        if not sums:
            self.norms(2, results[1])
        partials = results.new_empty((1 + 2 * sums) * self.chunks)
        entries = {"DTYPE": _entry(self.dtype), "BLOCK": _CHUNK}
        constants = {"SUMS": sums, "LARGEST": torch.finfo(self.dtype).max} | entries
        _launch(_kernels().clamp, (self.chunks,), *self.table, self.chunks, low, high, partials, **constants)
        self._finish(partials, 1, results[0], ORDER=1, SCALED=False)
        if sums:
            self._finish(partials[self.chunks :], 2, results[1:], ORDER=2, SCALED=False)
        else:
            self.norms(2, results[2])


class ShortUnits:
    """Tensors of one dtype in contiguous units that are too short for a program each."""

    def __init__(
        self,
        device: torch.device,
        dtype: torch.dtype,
        width: int,
        aligned: bool,
        tensors: Sequence[tuple[int, int, int, int]],
    ) -> None:
        columns: Integers = np.array(tensors, dtype=np.int64).T
        addresses, units, lengths, places = (np.ascontiguousarray(column) for column in columns)
        rows = _TILE // width
        programs = -(-units // rows)

        def layout() -> Integers:
            firsts = programs.cumsum() - programs
            owners = np.repeat(np.arange(len(units)), programs)
            return np.concatenate([units, lengths, firsts, places, owners])

        key = ("units", rows, units.tobytes(), lengths.tobytes(), places.tobytes())
        self.table = (
            _resident.get(device, ("addresses", addresses.tobytes()), lambda: addresses),
            _resident.get(device, key, layout),
            len(units),
        )
        self.grid = (int(programs.sum()),)
        self.scaled = dtype == torch.float64
        self.constants = {"DTYPE": _entry(dtype), "ROWS": rows, "WIDTH": width, "ALIGNED": aligned}

    def norms(self, order: int, results: Tensor) -> None:
        """Write the norm of each unit to its place."""
        constants = {"ORDER": order, "SCALED": self.scaled and order == 2} | self.constants
        _launch(_kernels().unit_norms, self.grid, *self.table, results, **constants)

    def scale_(self, coefficients: Tensor) -> None:
        _launch(_kernels().scale_units, self.grid, *self.table, coefficients, **self.constants)
