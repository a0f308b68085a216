"""The learning rate during a run: warm-up, then constant or decayed to 0."""

import math

from torch.optim import Optimizer

from clipwise.lab.config.sections import Decay

__all__ = ["Schedule", "factor"]


class Schedule:
    """Sets the learning rate of every parameter group before each step, see `factor`.

    Args:
        optimizer: its current learning rates are the full ones.
        total: steps of the run.
        warmup: steps until the full learning rate.
        decay: what follows.
    """

    def __init__(
        self, optimizer: Optimizer, total: int, *, warmup: int = 0, decay: Decay = "constant"
    ) -> None:
        self._optimizer, self._total, self._warmup, self._decay = optimizer, total, warmup, decay
        self._full = [group["lr"] for group in optimizer.param_groups]

    def before(self, step: int) -> None:
        """Set the learning rates of a step, counted from 0."""
        if not self._warmup and self._decay == "constant":
            return
        share = factor(step, self._total, warmup=self._warmup, decay=self._decay)
        for group, full in zip(self._optimizer.param_groups, self._full, strict=True):
            group["lr"] = full * share


def factor(step: int, total: int, *, warmup: int, decay: Decay) -> float:
    """The factor of the learning rate in a step, counted from 0; always above 0.

    ``(step + 1) / (warmup + 1)`` in the warm-up. After that, with ``t`` going from 0 to 1 (excluded) over the
    remaining steps: ``1``, ``1 - t`` or ``(1 + cos(pi t)) / 2``.

    >>> [factor(step, 6, warmup=2, decay="linear") for step in range(6)]
    [0.3333333333333333, 0.6666666666666666, 1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    t = (step - warmup) / max(1, total - warmup)
    return {"constant": 1.0, "linear": 1 - t, "cosine": (1 + math.cos(math.pi * t)) / 2}[decay]
