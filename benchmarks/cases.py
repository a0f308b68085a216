"""The models whose gradients are clipped: real shapes, random entries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import oracle

__all__ = ["CASES", "Case", "Problem", "make"]

WEIGHT_STD, GRADIENT_STD = 0.02, 1e-3

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A model by the shapes of its parameters, in their own order."""

    name: str
    title: str
    shapes: tuple[Shape, ...]

    @property
    def entries(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes)


def _gpt2_small() -> list[Shape]:
    """12 layers of width 768; the output layer is the token embedding."""
    width, vocabulary, positions = 768, 50257, 1024
    linear = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    norm: list[Shape] = [(width,), (width,)]
    attention = [shape for rows, columns in linear[:2] for shape in ((rows, columns), (columns,))]
    mlp = [shape for rows, columns in linear[2:] for shape in ((rows, columns), (columns,))]
    return [(vocabulary, width), (positions, width), *(norm + attention + norm + mlp) * 12, *norm]


def _resnet50() -> list[Shape]:
    """Bottleneck blocks 3, 4, 6, 3; convolutions without biases, each followed by a batch norm."""

    def convolution(into: int, out_of: int, kernel: int) -> list[Shape]:
        return [(into, out_of, kernel, kernel), (into,), (into,)]

    shapes = convolution(64, 3, 7)
    channels = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += convolution(width, channels, 1) + convolution(width, width, 3)
            shapes += convolution(4 * width, width, 1)
            if block == 0:
                shapes += convolution(4 * width, channels, 1)  # of the shortcut
            channels = 4 * width
    return [*shapes, (1000, channels), (1000,)]


def _lstm() -> list[Shape]:
    with torch.device("meta"):
        modules = nn.ModuleList([nn.LSTM(128, 256, 2), nn.Linear(256, 96)])
    return [tuple(p.shape) for p in modules.parameters()]


CASES = {
    case.name: case
    for case in (
        Case("gpt2", "GPT-2 small", tuple(_gpt2_small())),
        Case("resnet50", "ResNet-50", tuple(_resnet50())),
        Case("small", "400 small", tuple([(64, 64)] * 200 + [(64,)] * 200)),
        Case("lstm", "LSTM, 2 layers", tuple(_lstm())),
    )
}


class Problem:
    """Parameters with gradients, and the gradients once more to start from again.

    Args:
        case: whose shapes they have.
        parameters: each with a gradient.
    """

    def __init__(self, case: Case, parameters: Sequence[nn.Parameter]) -> None:
        self.case = case
        self.parameters = list(parameters)
        self.gradients: list[Tensor] = []
        for parameter in self.parameters:
            assert parameter.grad is not None
            self.gradients.append(parameter.grad)
        self.pristine = [gradient.clone() for gradient in self.gradients]

    @property
    def dtype(self) -> torch.dtype:
        return self.parameters[0].dtype

    @property
    def device(self) -> torch.device:
        return self.parameters[0].device

    @property
    def nbytes(self) -> int:
        """Bytes of all gradients; the weights take as many."""
        return sum(gradient.nbytes for gradient in self.gradients)

    @cached_property
    def norms(self) -> np.ndarray:
        """The true 2-norm of each gradient, in float64."""
        return oracle.tensor_norms(self.pristine)

    @property
    def norm(self) -> float:
        """The true norm of all gradients together."""
        return float(np.sqrt(np.square(self.norms).sum()))

    def restore(self) -> None:
        """The gradients as they were at first."""
        torch._foreach_copy_(self.gradients, self.pristine)


def make(case: Case, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Problem:
    """Normal weights (standard deviation 0.02) and gradients (0.001), the same for every dtype."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: Shape, std: float) -> Tensor:
        values = torch.empty(shape).normal_(std=std, generator=generator)
        return values.to(device, dtype)

    parameters = []
    for shape in case.shapes:
        parameter = nn.Parameter(normal(shape, WEIGHT_STD))
        parameter.grad = normal(shape, GRADIENT_STD)
        parameters.append(parameter)
    return Problem(case, parameters)
