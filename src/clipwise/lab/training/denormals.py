"""Flushes denormal numbers to 0, which a diverging training produces in large numbers."""

import contextlib
import ctypes
from collections.abc import Iterator

import torch

__all__ = ["denormals_as_zero"]


@contextlib.contextmanager
def denormals_as_zero() -> Iterator[None]:
    """A context in which floats below 1.2e-38 (doubles below 2.2e-308) are 0, in this thread and its team.

    Intel's processors compute with such numbers in microcode, so a step with diverged weights takes several
    times as long. The previous mode is restored at the end.
    """
    before = bool(torch.full((), 1e-39) * 1.0 == 0.0)
    _set(True)
    try:
        yield
    finally:
        _set(before)


def _set(on: bool) -> None:
    """In this thread, and in those of OpenMP, which share its work and would differ from it otherwise."""
    torch.set_flush_denormal(on)
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: torch.set_flush_denormal(on))
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another runtime, or none
        ctypes.CDLL(None).GOMP_parallel(body, None, torch.get_num_threads(), 0)
