"""The least time a clip can take: the bytes it must move over the bandwidth of the memory.

The bandwidth is measured with torch's own loops, on the threads that torch uses, on a buffer several times as
large as the caches, and as one more turn of the same rounds: on a shared machine it changes by the minute.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.timing import Clock, Turn, interleaved

__all__ = ["Bandwidth", "Yardstick", "cache_bytes"]


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second: of reading, and of reading and writing in place (both directions counted)."""

    read: float
    update: float

    def seconds(self, reads: int, updates: int) -> float:
        """The floor: so many bytes read, and so many read, changed and written back."""
        return reads / self.read + 2 * updates / self.update


class Yardstick:
    """Measures the bandwidth of a device.

    On the CPU reading is a float32 sum, reading and writing a multiplication in place; both go as fast as
    memory allows. On a GPU both are a copy from one buffer to another.

    Args:
        device: whose memory.
        nbytes: the size of a buffer; at least eight times the last cache.
    """

    def __init__(self, device: torch.device, nbytes: int | None = None) -> None:
        entries = (nbytes or max(256 << 20, 8 * cache_bytes(device))) // 4
        self.buffer = torch.ones(entries, device=device)
        self.copy = torch.empty_like(self.buffer) if device.type == "cuda" else None

    def turns(self) -> list[Turn]:
        """Two turns: reading, and reading and writing."""
        copy = self.copy
        if copy is not None:
            turn = Turn(lambda: copy.copy_(self.buffer))
            return [turn, turn]
        return [Turn(self.buffer.sum), Turn(lambda: self.buffer.mul_(1.0))]

    def rates(self, seconds: np.ndarray) -> np.ndarray:
        """Bytes a second from the times of the two turns, (rounds, 2)."""
        both_ways = 2 * self.buffer.nbytes
        moved = np.array([both_ways if self.copy is not None else self.buffer.nbytes, both_ways])
        rates: np.ndarray = moved / seconds
        return rates

    def measure(self, clock: Clock, rounds: int = 9) -> Bandwidth:
        """The median over some rounds."""
        found = self.rates(interleaved(self.turns(), clock, seconds=0.0, least=rounds, most=rounds))
        read, update = np.median(found, axis=0)
        return Bandwidth(float(read), float(update))


def cache_bytes(device: torch.device) -> int:
    """The size of the largest cache; 32 MiB where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        if text[:-1].isdigit() and text[-1] in units:
            sizes.append(int(text[:-1]) * units[text[-1]])
    return max(sizes, default=32 << 20)
