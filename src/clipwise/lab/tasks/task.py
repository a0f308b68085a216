"""What training needs to know of a task: the model's shapes, the batches, the loss, the held-out figures."""

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
    """Gives the context in which the model computes, for its precision."""

    def __call__(self) -> AbstractContextManager[Any]: ...


@dataclass(frozen=True)
class SequenceBatch:
    """Sequences of one step, with one entry a sequence along the first axis of every tensor.

    Attributes:
        x: symbols ``(B, T)`` or real features ``(B, T, F)``.
        y: what to predict: ``(B, T)`` symbols, ``(B,)`` classes or ``(B,)`` values.
        lengths: steps of each sequence, where they differ; the rest is padding.
        categories: categorical features ``(B, T, C)``.
        continues: each sequence goes on where the one of the step before ended.
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
    """One task on one data set; it holds no weights and no random state, so runs can share it.

    Attributes:
        spec: the shapes of the model.
        metric: the held-out figure people decide by, a key of what `evaluate` returns.
        lower_is_better: whether less of it is better.
        steps_per_epoch: steps that see the training data once.
        summary: a few words about the data: how much, how it was split, what was missing.
        details: what it takes to use the trained model elsewhere (symbols, means, ...), as plain values.
    """

    spec: ModelSpec
    metric: str
    lower_is_better: bool
    steps_per_epoch: int
    summary: str
    details: dict[str, Any]

    @abstractmethod
    def batches(self, seed: int) -> Iterator[SequenceBatch]:
        """Batches of the training part without end, in an order that depends on the seed alone."""

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The mean loss of a batch."""

    @abstractmethod
    def evaluate(self, model: nn.Module, device: torch.device, autocast: Autocast) -> dict[str, float]:
        """Figures on a bounded number of held-out batches, the same ones every time."""


@contextmanager
def evaluating(model: nn.Module, autocast: Autocast) -> Iterator[None]:
    """No gradient, no dropout, in the precision of the training; the model trains on afterwards."""
    model.eval()
    try:
        with torch.inference_mode(), autocast():
            yield
    finally:
        model.train()
