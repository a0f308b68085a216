"""Selects the engine for some tensors."""

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from clipwise.errors import ArgumentError
from clipwise.stack import warn
from clipwise.torch.engines import foreach, native, reference, triton
from clipwise.torch.engines._triton_check import check

__all__ = ["ENGINES", "AnyBatch", "engine", "gather", "make_batch", "refuse_unknown_engine"]

AnyBatch: TypeAlias = reference.Batch | native.Batch | triton.Batch

ENGINES: dict[str, Callable[[Sequence[Tensor]], AnyBatch]] = {
    "native": native.Batch,
    "triton": triton.Batch,
    "foreach": foreach.Batch,
    "reference": reference.Batch,
}


ONLY_ON = {"native": "cpu", "triton": "cuda"}
"""The device type that an engine supports; engines that are not listed support all."""


def engine(device: torch.device | str = "cpu") -> str:
    """The name of the engine that computes norms and scales gradients on a device.

    ``"native"`` with its vector width if the extension module was built and the device is the CPU;
    ``"triton"`` on CUDA if Triton works there; ``"foreach"`` on other devices; otherwise ``"reference"``.

    Raises:
        ArgumentError: ``CLIPWISE_ENGINE`` names an unknown engine, or one that is not installed.

    >>> engine("cpu") in ("reference", "native avx512", "native avx2", "native baseline", "native neon")
    True
    """
    name = _name(torch.device(device).type, torch.device(device).index)
    return f"native {native.level()}" if name == "native" else name


def make_batch(tensors: Sequence[Tensor]) -> AnyBatch:
    """The tensors, at least one, as a batch of the engine for the first tensor's device."""
    device = tensors[0].device
    return ENGINES[_name(device.type, device.index)](tensors)


def gather(parameters: list[Tensor]) -> tuple[list[int] | None, AnyBatch | None]:
    """The gradients of some parameters, without duplicates, in the form that an engine reads.

    Returns:
        The indices of the parameters that have a gradient, or None if all have one; and their gradients, or
        None if there are none.
    """
    if parameters and _name(parameters[0].device.type, parameters[0].device.index) == "native":
        gradients, places, table = native.gather(parameters)
        return places, native.Batch(gradients, table) if gradients else None
    gradients = [gradient for p in parameters if (gradient := p.grad) is not None]
    if len(set(map(id, parameters))) == len(gradients) == len(parameters) > 0:
        return None, make_batch(gradients)
    once = {id(p): place for place, p in reversed(list(enumerate(parameters)))}
    found = [(place, parameters[place].grad) for place in sorted(once.values())]
    there = [(place, gradient) for place, gradient in found if gradient is not None]
    if not there:
        return [], None
    places = None if len(there) == len(parameters) else [place for place, _ in there]
    return places, make_batch([gradient for _, gradient in there])


def forget() -> None:
    """Choose the engine again after a change of ``CLIPWISE_ENGINE``."""
    _name.cache_clear()


@lru_cache(maxsize=64)
def _name(kind: str, index: int | None) -> str:
    wanted = os.environ.get("CLIPWISE_ENGINE", "")
    if wanted:
        refuse_unknown_engine()
        if ONLY_ON.get(wanted, kind) == kind:
            return wanted
    if kind == "cpu":
        return "native" if native.available() else "reference"
    if kind == "cuda" and triton.available() and _works(index):
        return "triton"
    return "foreach"


def refuse_unknown_engine() -> None:
    """Raise ArgumentError if ``CLIPWISE_ENGINE`` names an unknown engine, or one that is not installed."""
    wanted = os.environ.get("CLIPWISE_ENGINE", "")
    if not wanted:
        return
    if wanted not in ENGINES:
        raise ArgumentError(f"CLIPWISE_ENGINE must be one of {', '.join(ENGINES)}, got {wanted!r}")
    there = {"native": native.available, "triton": triton.available}
    if wanted in there and not there[wanted]():
        raise ArgumentError(f"CLIPWISE_ENGINE is {wanted!r}, but that engine is not installed")


def _works(index: int | None) -> bool:
    """Whether the Triton engine gives correct results on this device; tested once, on small tensors."""
    try:
        check(torch.device("cuda", index or 0))
    except Exception as error:  # a driver, a compiler, a kernel: whatever it is, there is another engine
        warn(f"the Triton engine does not work here, foreach is used instead: {error}")
        return False
    return True
