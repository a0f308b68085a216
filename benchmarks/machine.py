"""What the table was measured on, in a few words: no names, no paths."""

import datetime
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import clipwise
from benchmarks.floors import Bandwidth, cache_bytes

__all__ = ["OtherWork", "busy_cores", "cpu_facts", "engine_name", "facts"]


class OtherWork:
    """How many cores something else kept busy since this was made; ratios suffer where it is not near 0."""

    def __init__(self) -> None:
        self.start = self._now()

    def cores(self) -> float | None:
        """Busy time of all cores, stolen time included, less our own, over the time that passed."""
        if self.start is None or (now := self._now()) is None:
            return None
        busy, own, wall = (after - before for after, before in zip(now, self.start, strict=True))
        return max(0.0, busy - own) / max(wall, 1e-9)

    @staticmethod
    def _now() -> tuple[float, float, float] | None:
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        except OSError:
            return None
        user, nice, system, _, _, irq, softirq, steal = map(int, fields[1:9])
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        return busy, time.process_time(), time.monotonic()


def facts(device: torch.device, bandwidth: Bandwidth, other: OtherWork) -> dict[str, str]:
    """What a reader needs to judge the figures."""
    cores = other.cores()
    found = {
        "processor": _gpu(device) if device.type == "cuda" else _cpu(),
        "threads": str(torch.get_num_threads()),
        "largest cache": f"{cache_bytes(device) / 2**20:.0f} MiB",
        "bandwidth": f"{bandwidth.read * 1e-9:.0f} GB/s reading,"
        f" {bandwidth.update * 1e-9:.0f} GB/s reading and writing",
        "other work meanwhile": "unknown" if cores is None else f"{cores:.2f} of {os.cpu_count()} cores",
        "torch": torch.__version__,
        "clipwise": f"{clipwise.__version__}, engine {engine_name(device)}",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    if device.type == "cuda":
        both = f"{bandwidth.update * 1e-9:.0f} GB/s copying (both directions counted)"
        found |= {"threads": "one GPU", "bandwidth": both}
    return found


@contextmanager
def busy_cores(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """So many processes compute meanwhile, as data loaders do."""
    loop = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(loop) for _ in range(count)]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.wait()


def cpu_facts(other: OtherWork) -> dict[str, str]:
    """The same of a CPU alone, without a bandwidth."""
    cores = other.cores()
    return {
        "processor": _cpu(),
        "cores": str(os.cpu_count()),
        "other work meanwhile": "unknown" if cores is None else f"{cores:.2f} of {os.cpu_count()} cores",
        "clipwise": clipwise.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def engine_name(device: torch.device) -> str:
    """The engine that clipwise uses on a device."""
    engine = getattr(clipwise.torch, "engine", None)
    if engine is None:
        return "reference"
    try:
        return str(engine(device))
    except TypeError:
        return str(engine())


def _cpu() -> str:
    """The model of the CPU, as Linux or else Python tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _gpu(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)
