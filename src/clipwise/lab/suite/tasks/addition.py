"""The adding problem: two marked numbers among many, and their sum."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from clipwise.lab.suite.loop import LoopTask, Training, Update
from clipwise.lab.suite.models import Elman
from clipwise.lab.suite.task import Trial

__all__ = ["Addition", "sums"]

LENGTH, UNITS, BATCH, RATE = 20, 100, 16, 0.01
INPUTS = 0.05
"""Deviation of the weights that are not recurrent."""


class Addition(LoopTask):
    """A ReLU recurrence begun at the identity: Le, Jaitly, Hinton 2015 (arXiv:1504.00941), section 4.1."""

    def __init__(self) -> None:
        super().__init__(
            name="addition",
            title=f"Adding two of {LENGTH} numbers, ReLU RNN begun at the identity, SGD",
            about=f"The sum of two marked numbers of {LENGTH} from [0, 1); {UNITS} units, other weights begun"
            f" at a deviation of {INPUTS}, SGD at {RATE}, batch {BATCH}. Le, Jaitly, Hinton 2015 have 150 to"
            " 400 numbers, begin at .001 and clip too; that takes longer than there is here. Always answering"
            " 1 has an error of .167; minutes are not enough to learn more, so there is no small size.",
            metric="mse",
            sizes={
                "tiny": {"updates": 6, "every": 3, "test": 50},
                "full": {"updates": 5_000, "every": 500, "test": 5_000},
            },
            seconds={"tiny": 0.1, "full": 11},
        )

    def build(self, trial: Trial) -> Training:
        size = self.sizes[trial.budget]
        model = Elman(2, UNITS, 1, "relu", layer_norm=trial.variant.layer_norm)
        model.start_(inputs=INPUTS, recurrent=torch.eye(UNITS))
        optimizer = torch.optim.SGD(
            model.parameters(), lr=RATE * trial.variant.rate, weight_decay=trial.variant.weight_decay
        )
        drawn = torch.Generator().manual_seed(trial.seed)
        test = sums(size["test"], torch.Generator().manual_seed(2015))

        def updates() -> Iterator[Update]:
            while True:
                x, y = sums(BATCH, drawn)
                yield nn.functional.mse_loss(model(x)[:, 0], y), 0

        def evaluate() -> dict[str, float]:
            return {"mse": float(nn.functional.mse_loss(model(test[0])[:, 0].double(), test[1].double()))}

        return Training(model, [optimizer], updates, evaluate, size["updates"], size["every"])


def sums(count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences ``(count, 20, 2)`` of numbers and marks, a mark in each half, and the marked ones' sums."""
    numbers = torch.rand(count, LENGTH, generator=random)
    marks = torch.zeros(count, LENGTH)
    rows, half = torch.arange(count), LENGTH // 2
    for first in (0, half):
        marks[rows, torch.randint(first, first + half, (count,), generator=random)] = 1.0
    return torch.stack([numbers, marks], dim=2), (numbers * marks).sum(1)
