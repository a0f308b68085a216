"""Training loops written out by hand: plain torch, the clipping in float64 numpy, no clipwise inside."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

THRESHOLD = 0.05
STEPS = 9

ByHand = Callable[[nn.Module], bool]
"""Clips the gradients of a model in place; tells whether it did."""


def make_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def batch(step: int) -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(step))


def loss_of(model: nn.Module, step: int) -> Tensor:
    """Every third gradient is large, the others small: some steps are clipped and some are not."""
    dtype = next(model.parameters()).dtype
    return model(batch(step).to(dtype)).square().mean() * (10.0 if step % 3 == 2 else 0.01)


def backward(model: nn.Module, step: int) -> Tensor:
    model.zero_grad()
    loss = loss_of(model, step)
    loss.backward()
    return loss


# The formulas, written out.


def entries(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def norm_of(gradients: Iterable[Tensor]) -> float:
    return float(np.sqrt(sum(np.sum(entries(g) ** 2) for g in gradients)))


def gradients_of(model: nn.Module | Iterable[Tensor]) -> list[Tensor]:
    parameters = model.parameters() if isinstance(model, nn.Module) else model
    return [p.grad for p in parameters if p.grad is not None]


def scale(gradient: Tensor, factor: float | np.ndarray) -> None:
    gradient.copy_(torch.from_numpy(entries(gradient) * factor))


def clip_globally(model: nn.Module | Iterable[Tensor], threshold: float = THRESHOLD) -> bool:
    """``g *= min(1, threshold / norm)`` with the joint norm of all."""
    gradients = gradients_of(model)
    norm = norm_of(gradients)
    for gradient in gradients if norm > threshold else ():
        scale(gradient, threshold / norm)
    return norm > threshold


def clip_each(model: nn.Module | Iterable[Tensor], threshold: float = THRESHOLD) -> bool:
    """The same with each tensor's own norm."""
    return sum(clip_globally([p], threshold) for p in _listed(model)) > 0


def clip_values(model: nn.Module | Iterable[Tensor], threshold: float = 0.01) -> bool:
    beyond = False
    for gradient in gradients_of(model):
        values = entries(gradient)
        beyond |= bool((np.abs(values) > threshold).any())
        gradient.copy_(torch.from_numpy(np.clip(values, -threshold, threshold)))
    return beyond


def clip_units(model: nn.Module, ratio: float = 0.01, eps: float = 1e-3) -> bool:
    """AGC: each row of a matrix by its own norm and that of its weights; a vector is one unit."""
    clipped = False
    for parameter in model.parameters():
        rows = (parameter.shape[0], -1) if parameter.ndim > 1 else (1, -1)
        gradient, weights = entries(parameter.grad).reshape(rows), entries(parameter).reshape(rows)
        norms = np.linalg.norm(gradient, axis=1, keepdims=True)
        limits = ratio * np.maximum(np.linalg.norm(weights, axis=1, keepdims=True), eps)
        beyond = norms > limits
        factors = np.where(beyond, limits / np.where(beyond, norms, 1.0), 1.0)
        parameter.grad.copy_(torch.from_numpy(gradient * factors).reshape(parameter.shape))
        clipped |= bool(beyond.any())
    return clipped


class ClipAtPercentile:
    """AutoClip: the global norm at a percentile of the norms so far, this one included."""

    def __init__(self, q: float) -> None:
        self.q = q
        self.norms: list[float] = []

    def __call__(self, model: nn.Module) -> bool:
        self.norms.append(norm_of(gradients_of(model)))
        return clip_globally(model, float(np.percentile(self.norms, self.q)))


def _listed(model: nn.Module | Iterable[Tensor]) -> list[Tensor]:
    return list(model.parameters() if isinstance(model, nn.Module) else model)


# Comparing.


def assert_same(a: nn.Module, b: nn.Module, rtol: float = 2e-6, atol: float = 2e-7) -> None:
    """The same parameters up to a rounding of each clipped entry, carried through a few steps."""
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=rtol, atol=atol)


def assert_identical(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


class BoundedSGD(torch.optim.SGD):
    """What each step did, without the learning rate, has at most this norm, by tensor."""

    LIMIT = 0.02

    def step(self, closure: None = None) -> None:
        listed = [(p, group["lr"]) for group in self.param_groups for p in group["params"]]
        before = [entries(p) for p, _ in listed]
        super().step(closure)
        for (p, rate), old in zip(listed, before, strict=True):
            moved = entries(p) - old
            norm = np.linalg.norm(moved) / (rate or 1.0)
            if norm > self.LIMIT:
                p.detach().copy_(torch.from_numpy(old + moved * (self.LIMIT / norm)))


def run_by_hand(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    clip: ByHand = clip_globally,
    steps: Iterable[int] = range(STEPS),
) -> int:
    """The plain loop; returns how many steps were clipped: some, and not all."""
    clipped, taken = 0, 0
    for step in steps:
        backward(model, step)
        clipped += clip(model)
        optimizer.step()
        taken += 1
    assert 0 < clipped < taken
    return clipped
