"""Times that can be compared: the calls take turns, and are compared turn by turn.

A machine is faster now and slower then. Two calls that run one right after the other see the same machine, so
the ratio is taken within each round, and its median over the rounds is what counts.
"""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Clock", "Paired", "Turn", "clock_for", "interleaved", "paired"]

Call = Callable[[], object]
Clock = Callable[[Call], float]


@dataclass(frozen=True)
class Turn:
    """What takes its turn in each round; ``before`` runs outside the time."""

    call: Call
    before: Call | None = None


@dataclass(frozen=True)
class Paired:
    """Two calls compared: seconds (medians), and peer / ours: median, lower and upper quartile."""

    peer: float
    ours: float
    ratio: float
    low: float
    high: float
    pairs: int


def clock_for(device: torch.device) -> Clock:
    """Seconds of one call: by the wall on the CPU, by events on a GPU, between two idle moments."""
    return _event_seconds if device.type == "cuda" else _wall_seconds


def _wall_seconds(call: Call) -> float:
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) * 1e-9


def _event_seconds(call: Call) -> float:
    # The device is idle at the start: otherwise the host's own work would hide behind what is still queued.
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1e-3


def interleaved(
    turns: Sequence[Turn], clock: Clock, *, seconds: float, least: int, most: int, warm: int = 1
) -> np.ndarray:
    """The seconds of each turn in each round, (rounds, turns).

    Args:
        turns: A, B, ...: run as A B ... A B ...
        seconds: no further round starts after so long; counts all that happens, untimed work too.
        least, most: rounds that are run at least and at most, whatever ``seconds`` says.
        warm: rounds before the first that counts.
    """
    found: list[list[float]] = []
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(warm):
            _round(turns, clock)
        end = time.perf_counter() + seconds
        while len(found) < least or (len(found) < most and time.perf_counter() < end):
            found.append(_round(turns, clock))
    finally:
        if collecting:
            gc.enable()
    return np.array(found)


def _round(turns: Sequence[Turn], clock: Clock) -> list[float]:
    seconds = []
    for turn in turns:
        if turn.before is not None:
            turn.before()
        seconds.append(clock(turn.call))
    return seconds


def paired(peer: np.ndarray, ours: np.ndarray) -> Paired:
    """The seconds of two calls, round by round, as one figure."""
    low, ratio, high = np.percentile(peer / ours, [25, 50, 75])
    return Paired(
        peer=float(np.median(peer)),
        ours=float(np.median(ours)),
        ratio=float(ratio),
        low=float(low),
        high=float(high),
        pairs=len(ours),
    )
