"""The forward hook that bounds what one module gives, and counts how often a bound is reached."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from clipwise.errors import ArgumentError


@dataclass(frozen=True)
class Saturation:
    """How often one activation was at its bounds.

    Attributes:
        low: share of the entries at or below the lower bound.
        high: share at or above the upper bound.
        entries: how many were seen.
    """

    low: float
    high: float
    entries: int


class Bounding:
    """``act`` on what the module ``name`` gives; the module's own bounds where it is None.

    An object and no closure, so that a model is copied and pickled with bounds and counts of its own.
    """

    def __init__(self, name: str, act: Any, device: torch.device) -> None:
        self.name, self.act = name, act
        self.counts = torch.zeros(3, dtype=torch.int64, device=device)

    def __call__(self, module: nn.Module, arguments: Any, output: Any) -> Tensor | None:
        act = self.act
        if not isinstance(output, Tensor):
            raise ArgumentError(f"{self.name} returns {type(output).__name__}, not a tensor to clip")
        if act is None:
            self._count(module, output, output)
            return None
        if isinstance(act, nn.Module) and act.training != module.training:
            act.train(module.training)
        result: Tensor = act(output)
        self._count(act, output, result)
        return result

    def _count(self, act: Any, before: Tensor, after: Tensor) -> None:
        if after.shape != before.shape:
            raise ArgumentError(
                f"{self.name}: {_called(act)} turned {tuple(before.shape)} into {tuple(after.shape)}; "
                "only an activation that keeps the shape can be counted"
            )
        bounds = says_bounds(act)
        with torch.no_grad():
            if bounds is not None:
                low, high = (_along(bound, before, act) for bound in bounds)
                below, above = before <= low, before >= high
            elif after is before:
                raise ArgumentError(
                    f"{self.name}: {_called(act)} returned the tensor it was given, so the entries "
                    "that it clipped cannot be counted: return a new tensor"
                )
            else:  # a function: what it lifted, and what it cut
                below, above = after > before, after < before
            if self.counts.device != before.device:
                self.counts = self.counts.to(before.device)
            entries = torch.full_like(self.counts[0], before.numel())
            self.counts.add_(torch.stack([below.sum(), above.sum(), entries]))

    def saturation(self) -> Saturation:
        """The shares so far; this waits for the device."""
        low, high, entries = self.counts.tolist()
        return Saturation(low / max(entries, 1), high / max(entries, 1), entries)


def says_bounds(act: Any) -> tuple[Any, Any] | None:
    """Between what an activation bounds, where it is one that says so."""
    if isinstance(act, nn.Hardtanh):  # ReLU6 is one
        return act.min_val, act.max_val
    return getattr(act, "bounds", None)


def _along(bound: Any, x: Tensor, act: Any) -> Any:
    """A bound as it cuts ``x``: rounded to its type, one by channel in a shape that broadcasts."""
    if not isinstance(bound, Tensor):
        return bound
    bound = bound.detach().to(x)
    if bound.ndim != 1:
        return bound
    shape = [1] * x.ndim
    shape[act.axis] = -1
    return bound.reshape(shape)


def _called(act: Any) -> str:
    return getattr(act, "__qualname__", type(act).__name__)
