"""Whether the Triton kernels compute on a device what the reference functions compute; asked once."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from clipwise.torch.engines import reference
from clipwise.torch.engines._triton_tables import DTYPES
from clipwise.torch.engines.triton import Batch

_checked: dict[torch.device, str] = {}


def check(device: torch.device) -> None:
    """Compare the kernels with the reference functions on small tensors of every dtype, once per device.

    Raises:
        RuntimeError: the kernels cannot run there, or their results differ; the message says which.
    """
    if device not in _checked:
        try:
            with _waiting_allowed(device):
                differing = [name for dtype in DTYPES for name in _differences(device, dtype)]
            _checked[device] = ", ".join(differing)
        except Exception as error:
            first = next(iter(str(error).strip().splitlines()), "no message")
            _checked[device] = f"{type(error).__name__}: {first}"
    if _checked[device]:
        raise RuntimeError(f"the Triton engine cannot be used on {device}: {_checked[device]}")


@contextmanager
def _waiting_allowed(device: torch.device) -> Iterator[None]:
    """A comparison has to wait for the device, whatever the program asked torch to do about that."""
    if device.type != "cuda":
        yield
        return
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("default")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _differences(device: torch.device, dtype: torch.dtype) -> Iterator[str]:
    """The functions whose results are not those of the reference engine."""
    steps = torch.arange(40 * 1024, device=device, dtype=torch.float64)
    numbers = (torch.sin(steps) * 3).to(dtype)
    shapes = ((40, 1024), (), (0, 3), (5, 7), (17,))

    def fresh() -> tuple[Batch, list[Tensor]]:
        made = [[numbers[: math.prod(s)].clone().view(s) for s in shapes] for _ in range(2)]
        made = [[*tensors, numbers.clone()[1:8]] for tensors in made]  # not aligned
        return Batch(made[0]), made[1]

    batch, tensors = fresh()
    for p in (2.0, 1.0, math.inf):
        expected = torch.stack([reference.tensor_norm(t, p) for t in tensors])
        if not torch.allclose(batch.norms(p), expected, rtol=1e-9, atol=0):
            yield f"norms of order {p} of {dtype}"
    expected = torch.cat([reference.unit_norms(t, 2.0) for t in tensors])
    if not torch.allclose(batch.unit_norms(2.0), expected, rtol=1e-9, atol=0):
        yield f"unit norms of {dtype}"

    rounding = 2 * torch.finfo(dtype).eps
    factors = 1 / (2 + torch.arange(len(tensors), device=device, dtype=torch.float64))
    batch.scale_(factors)
    for tensor, factor in zip(tensors, factors, strict=True):
        reference.scale_(tensor, factor)
    if not _alike(batch.tensors, tensors, rounding):
        yield f"scaling of {dtype}"

    batch, tensors = fresh()
    factors = 1 / (2 + torch.arange(sum(batch.unit_counts), device=device, dtype=torch.float64))
    batch.scale_units_(factors)
    for tensor, own in zip(tensors, factors.split(batch.unit_counts), strict=True):
        reference.scale_units_(tensor, own)
    if not _alike(batch.tensors, tensors, rounding):
        yield f"scaling by unit of {dtype}"

    batch, tensors = fresh()
    beyond = batch.clamp_(-0.5, 1.25)[0]
    expected = torch.stack([reference.clamp_(t, -0.5, 1.25) for t in tensors])
    if not _alike(batch.tensors, tensors, 0.0) or not torch.equal(beyond, expected.to(beyond.dtype)):
        yield f"clamping of {dtype}"


def _alike(some: Sequence[Tensor], others: Sequence[Tensor], rtol: float) -> bool:
    return all(torch.allclose(a, b, rtol=rtol, atol=0) for a, b in zip(some, others, strict=True))
