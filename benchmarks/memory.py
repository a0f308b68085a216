"""How much memory a call takes for itself at its peak.

On a GPU torch's allocator counts. On the CPU it cannot: a kernel of our own does not ask it. There Linux is
asked: writing 5 to ``/proc/self/clear_refs`` sets the process's peak resident size (``VmHWM``) back to what
is resident now, and the call is what raises it again. First the C library gives back the free memory that it
keeps, or a temporary would be served out of it and remain unseen. Elsewhere there is no such reset: None.
"""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["extra_peak"]

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def extra_peak(
    call: Callable[[], object],
    device: torch.device,
    *,
    before: Callable[[], object] | None = None,
    repeats: int = 3,
) -> int | None:
    """Bytes that a call needs at its peak beyond what is there before it; the median of some repeats.

    Call it once before, or what is loaded and kept for good counts too. The counters of Linux are exact to
    some 100 KiB.
    """
    measure = _on_gpu if device.type == "cuda" else _on_cpu
    found = []
    for _ in range(repeats):
        if before is not None:
            before()
        extra = measure(call, device)
        if extra is None:
            return None
        found.append(extra)
    return sorted(found)[len(found) // 2]


def _on_gpu(call: Callable[[], object], device: torch.device) -> int:
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    start = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - start


def _on_cpu(call: Callable[[], object], device: torch.device) -> int | None:
    gc.collect()
    _give_back_free_memory()
    try:
        _RESET.write_text("5")
    except OSError:
        return None
    start = _kilobytes("VmRSS")
    call()
    return max(0, _kilobytes("VmHWM") - start) << 10


def _kilobytes(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0])
    raise OSError(f"{_STATUS} has no {field}")


def _give_back_free_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)
