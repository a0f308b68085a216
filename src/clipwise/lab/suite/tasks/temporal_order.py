"""Temporal order: which two of many symbols came, and in which order."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from clipwise.lab.suite.budgets import BudgetName
from clipwise.lab.suite.loop import LoopTask, Training, Update
from clipwise.lab.suite.methods import METHODS
from clipwise.lab.suite.models import Elman
from clipwise.lab.suite.task import Trial

__all__ = ["TemporalOrder", "sequences"]

SYMBOLS = 6
"""Two that count and four that distract."""
UNITS, BATCH, RATE = 50, 20, 0.01
NON_ZERO, RADIUS = 15, 0.95
SOLVED = 0.01
FEW = ("none", "norm-0.25", "norm-1", "norm-5", "zclip", "auto")
"""What the long and the hard variants are trained with: a run takes a minute."""

Start = Literal["sigmoid", "tanh", "smart"]


class TemporalOrder(LoopTask):
    """Pascanu, Mikolov, Bengio 2013 (arXiv:1211.5063), section 4.1.

    Args:
        length: of a sequence.
        start: ``"smart"``: tanh, 15 connections into a unit, spectral radius .95, others of deviation .01;
            ``"tanh"``: all weights of deviation .1; ``"sigmoid"``: all of deviation .01.
    """

    def __init__(self, length: int, start: Start) -> None:
        usual = length == 50 and start == "smart"
        how = {"smart": "smart tanh", "tanh": "basic tanh", "sigmoid": "sigmoid"}[start]
        updates = 9_000 if usual else 4_000 if start == "sigmoid" else 8_000
        sizes: dict[BudgetName, dict[str, int]] = {"full": {"updates": updates, "every": 500, "test": 10_000}}
        seconds: dict[BudgetName, float] = {
            "full": updates * length * (3e-4 if start == "sigmoid" else 7.5e-5)
        }
        if usual:
            sizes["tiny"] = {"updates": 6, "every": 3, "test": 50}
            sizes["small"] = {"updates": 2_000, "every": 500, "test": 2_000}
            seconds |= {"tiny": 0.1, "small": 7.5}
        super().__init__(
            name=f"temporal-order-{length}" + ("" if start == "smart" else f"-{start}"),
            title=f"Temporal order over {length} steps, {how} start, SGD",
            about=f"Which of two symbols came at a tenth and at half of {length} steps, four answers; {UNITS}"
            f" units, SGD at {RATE}, batch {BATCH}, solved below 1 % errors: Pascanu, Mikolov, Bengio 2013.",
            metric="errors",
            goal=SOLVED,
            sizes=sizes,
            methods=METHODS if usual else {name: METHODS[name] for name in FEW},
            seconds=seconds,
        )
        self.length, self.start = length, start

    def build(self, trial: Trial) -> Training:
        size = self.sizes[trial.budget]
        f = "sigmoid" if self.start == "sigmoid" else "tanh"
        model = Elman(SYMBOLS, UNITS, 4, f, layer_norm=trial.variant.layer_norm)
        deviation = {"smart": 0.01, "tanh": 0.1, "sigmoid": 0.01}[self.start]
        plain = torch.randn(UNITS, UNITS) * deviation
        model.start_(inputs=deviation, recurrent=_smart() if self.start == "smart" else plain)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=RATE * trial.variant.rate, weight_decay=trial.variant.weight_decay
        )
        drawn = torch.Generator().manual_seed(trial.seed)
        test = sequences(size["test"], self.length, torch.Generator().manual_seed(2013))

        def updates() -> Iterator[Update]:
            while True:
                x, y = sequences(BATCH, self.length, drawn)
                yield nn.functional.cross_entropy(model(x), y), 0

        def evaluate() -> dict[str, float]:
            logits = model(test[0])
            return {
                "errors": float((logits.argmax(1) != test[1]).double().mean()),
                "loss": float(nn.functional.cross_entropy(logits, test[1])),
            }

        return Training(
            model,
            [optimizer],
            updates,
            evaluate,
            size["updates"],
            size["every"],
            lambda figures: figures["errors"] < SOLVED,
        )


def sequences(count: int, length: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sequences ``(count, length, 6)``, one-hot, and which of AA, AB, BA, BB each holds.

    The two symbols stand somewhere in ``[length/10, 2 length/10)`` and ``[5 length/10, 6 length/10)``.
    """
    symbols = torch.randint(2, SYMBOLS, (count, length), generator=random)
    pair = torch.randint(0, 2, (count, 2), generator=random)
    rows = torch.arange(count)
    for place, tenth in enumerate((1, 5)):
        where = torch.randint(tenth * length // 10, (tenth + 1) * length // 10, (count,), generator=random)
        symbols[rows, where] = pair[:, place]
    return nn.functional.one_hot(symbols, SYMBOLS).float(), 2 * pair[:, 0] + pair[:, 1]


def _smart() -> Tensor:
    """15 normal connections into each unit, the largest eigenvalue scaled to .95."""
    weights = torch.zeros(UNITS, UNITS)
    for row in weights:
        row[torch.randperm(UNITS)[:NON_ZERO]] = torch.randn(NON_ZERO)
    return weights * float(RADIUS / torch.linalg.eigvals(weights).abs().max())
