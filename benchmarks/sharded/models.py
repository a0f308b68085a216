"""The models that are spread over the ranks, their gradients, and what a call sends."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import cases
from benchmarks.oracle import CheckError

__all__ = ["CASES", "GOAL", "RANKS", "Case", "Model", "Sent"]

RANKS = 2
GOAL = 3.0
"""So much less of the host's time than each peer."""


@dataclass(frozen=True)
class Case:
    """A model by the shapes of the parameters in each part that is sharded by itself.

    Attributes:
        rounds: how often each call is measured.
        goal: what the host's time of each peer over ours should be; None: arithmetic is most of it.
    """

    title: str
    parts: tuple[tuple[cases.Shape, ...], ...]
    rounds: int
    goal: float | None = GOAL


def _by_layer(shapes: Sequence[cases.Shape], narrower: int = 1) -> tuple[tuple[cases.Shape, ...], ...]:
    """The embeddings with the last norm, and the twelve layers; all widths divided by a number."""
    shapes = [tuple(max(RANKS, size // narrower) for size in shape) for shape in shapes]
    layers, ends = shapes[2:-2], (*shapes[:2], *shapes[-2:])
    count = len(layers) // 12
    return (ends, *(tuple(layers[i * count : (i + 1) * count]) for i in range(12)))


CASES = {
    "gpt2": Case("GPT-2 small, 148 tensors", _by_layer(cases.CASES["gpt2"].shapes), 15, None),
    "narrow": Case("the same, 1/16 as wide", _by_layer(cases.CASES["gpt2"].shapes, 16), 200),
    "many": Case("2,000 tensors of 64 entries", (((8, 8),) * 100,) * 20, 60),
}


class Part(nn.Module):
    """Some parameters, each with a gradient of ones."""

    def __init__(self, shapes: Sequence[cases.Shape]) -> None:
        super().__init__()
        self.held = nn.ParameterList([nn.Parameter(torch.empty(shape, device="meta")) for shape in shapes])

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.stack([p.sum() for p in self.held]).sum()


class Model:
    """A model over all ranks, with random gradients, and the same once more to start from again."""

    def __init__(self, case: Case) -> None:
        mesh = init_device_mesh("cpu", (RANKS,))
        module = nn.Sequential(*(Part(shapes) for shapes in case.parts))
        for part in module:
            fully_shard(part, mesh=mesh)
        fully_shard(module, mesh=mesh)
        module.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(dist.get_rank())
        self.parameters = list(module.parameters())
        with torch.no_grad():
            for parameter in self.parameters:
                _local(parameter).normal_(std=cases.WEIGHT_STD, generator=generator)
        module(torch.zeros(())).backward()
        self.module = module
        self.gradients = [_local(p.grad) for p in self.parameters]
        for gradient in self.gradients:
            gradient.normal_(std=cases.GRADIENT_STD, generator=generator)
        self.pristine = [gradient.clone() for gradient in self.gradients]
        squares = torch.stack([one.double().square().sum() for one in self.pristine]).sum()
        dist.all_reduce(squares)
        self.norm = float(squares.sqrt())

    def restore(self) -> None:
        torch._foreach_copy_(self.gradients, self.pristine)

    def check(self, name: str, threshold: float, rtol: float) -> None:
        """CheckError if the gradients are not what they must be."""
        for found, was in zip(self.gradients, self.pristine, strict=True):
            expected = was.double() * (threshold / self.norm)
            if not torch.allclose(found.double(), expected, rtol=rtol, atol=0.0):
                raise CheckError(f"{name}: the gradients were not clipped to {threshold:g}")


_UNCOUNTED = re.compile("wait|wrap|barrier")


class Sent(TorchDispatchMode):
    """Counts collectives, and the bytes that this rank gives to them, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.collectives = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(issubclass(kind, DTensor) for kind in types):
            return NotImplemented  # what it does with its local tensors comes by again
        if func.namespace in ("c10d", "_c10d_functional") and not _UNCOUNTED.search(func.__name__):
            self.collectives += 1
            given = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            self.bytes += sum(one.nbytes for one in given)
        return func(*args, **(kwargs or {}))


def _local(tensor: Any) -> Tensor:
    local: Tensor = tensor.to_local()
    return local.detach()
