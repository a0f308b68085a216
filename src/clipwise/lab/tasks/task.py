"""The interface of a task: the model's shapes, batches, loss and held-out metrics."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from clipwise.lab.tasks.models import ModelSpec, State

__all__ = ["Autocast", "SequenceBatch", "Task", "evaluating"]


class Autocast(Protocol):
    """Returns the context in which the model computes, depending on the precision."""

    def __call__(self) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class SequenceBatch:
    """The sequences of one step; the first axis of every tensor has one entry per sequence.

    Attributes:
        x: symbols ``(B, T)`` or real features ``(B, T, F)``.
        y: targets: ``(B, T)`` symbols, ``(B,)`` classes or ``(B,)`` values.
        lengths: number of steps of each sequence if they differ; the rest is padding.
        categories: categorical features ``(B, T, C)``.
        continues: whether each sequence continues the one of the previous step.
    """

    x: Tensor
    y: Tensor
    lengths: Tensor | None = None
    categories: Tensor | None = None
    continues: bool = False

    def part(self, index: int, parts: int) -> "SequenceBatch":
        """The ``index``-th of ``parts`` equal parts."""
        size = len(self.x) // parts
        here = slice(index * size, (index + 1) * size)
        return SequenceBatch(
            self.x[here],
            self.y[here],
            None if self.lengths is None else self.lengths[here],
            None if self.categories is None else self.categories[here],
            self.continues,
        )

    def to(self, device: torch.device) -> "SequenceBatch":
        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return SequenceBatch(
            self.x.to(device, non_blocking=True),
            self.y.to(device, non_blocking=True),
            move(self.lengths),
            move(self.categories),
            self.continues,
        )

    def through(self, model: nn.Module, state: State) -> tuple[Tensor, State]:
        """The model's outputs for this batch and its state after it."""
        outputs, state = model(self.x, state, lengths=self.lengths, categories=self.categories)
        return outputs, state


class Task(ABC):
    """One task on one data set. It holds no weights and no random state, so runs can share it.

    Attributes:
        spec: the shapes of the model.
        metric: the main held-out metric, a key of the result of `evaluate`.
        lower_is_better: whether a lower metric is better.
        steps_per_epoch: number of steps in one pass over the training data.
        summary: a short description of the data: size, split, missing values.
        details: what is needed to use the trained model elsewhere (symbols, means, ...), as plain values.
    """

    spec: ModelSpec
    metric: str
    lower_is_better: bool
    steps_per_epoch: int
    summary: str
    details: dict[str, Any]

    @abstractmethod
    def batches(self, seed: int) -> Iterator[SequenceBatch]:
        """Endless batches of the training part, in an order that depends on the seed only."""

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean loss of a batch."""

    @abstractmethod
    def evaluate(self, model: nn.Module, device: torch.device, autocast: Autocast) -> dict[str, float]:
        """Metrics on a bounded number of held-out batches, always the same ones."""


@contextmanager
def evaluating(model: nn.Module, autocast: Autocast) -> Iterator[None]:
    """A context without gradients and dropout, in the training precision; then back to training mode."""
    model.eval()
    try:
        with torch.inference_mode(), autocast():
            yield
    finally:
        model.train()
