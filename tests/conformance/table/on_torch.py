"""The table on PyTorch, with each of its engines."""

import math
from typing import ClassVar

import numpy as np
import torch

import clipwise
from clipwise import Clip
from clipwise.torch.engines import native
from tests.depth import THOROUGH
from tests.torch_engines import using

from .cases import SOME
from .own_policies import LOSSES, MOMENTUM, RATE


def to_torch(value: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.from_numpy(np.array(value)).to(getattr(torch, dtype))


def to_numpy(value: torch.Tensor) -> np.ndarray:
    return value.detach().to(torch.complex128 if value.is_complex() else torch.float64).numpy()


def rounded(gradients, dtype: str):
    return {k: None if v is None else to_numpy(to_torch(v, dtype)) for k, v in gradients.items()}


class OnTorch:
    """PyTorch with one of its engines."""

    DTYPES: ClassVar = ["float64", "float32", "bfloat16", "float16", "complex64"]
    NORMS: ClassVar[dict[str, float]] = {}  # measured in float64, whatever the gradients are
    rounded = staticmethod(rounded)

    def __init__(self, name: str) -> None:
        self.name, self.engine = name, name.removeprefix("torch-")
        if self.engine != "native":  # rows of 512 entries in float32, their sum in float64
            self.NORMS = dict.fromkeys(("float32", "bfloat16", "float16"), 1e-6)
        if not THOROUGH and self.engine != ("native" if native.available() else "reference"):
            self.CLIPS, self.THRESHOLDS = SOME, [0.0, 1.0, math.inf]

    def run(self, rows, clip: Clip, dtype: str):
        with using(self.engine):
            return {name: run(gradients, clip, dtype) for name, gradients in rows.items()}

    def follow(self, clips, weights, gradients):
        with using(self.engine):
            return {name: follow(clip, weights, gradients) for name, clip in clips.items()}


def follow(clip, weights, gradients):
    parameters = {
        name: torch.nn.Parameter(torch.tensor(w, dtype=torch.float32)) for name, w in weights.items()
    }
    optimizer = torch.optim.SGD(list(parameters.items()), RATE, momentum=MOMENTUM)
    found = []
    with clipwise.torch.attach(optimizer, clip) as clipper:
        for given, loss in zip(gradients, LOSSES, strict=True):
            for name, value in given.items():
                parameters[name].grad = None if value is None else torch.tensor(value, dtype=torch.float32)
            clipper.observe(loss)
            optimizer.step()
            found.append({n: to_numpy(p.grad) for n, p in parameters.items() if p.grad is not None})
            with torch.no_grad():
                for name, value in weights.items():
                    parameters[name].copy_(torch.tensor(value))
    return found


def run(gradients, clip, dtype: str):
    parameters = {}
    for name, value in gradients.items():
        shape = (2, 2) if value is None else value.shape
        parameters[name] = torch.nn.Parameter(torch.ones(shape, dtype=getattr(torch, dtype)))
        if value is not None:
            parameters[name].grad = to_torch(value, dtype)
    report = clipwise.torch.clip_(parameters.items(), clip)
    found = {name: to_numpy(p.grad) for name, p in parameters.items() if p.grad is not None}
    return found, report
