"""Digits read one pixel after the other."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn

from clipwise.lab.suite.loop import LoopTask, Training, Update
from clipwise.lab.suite.models import Elman
from clipwise.lab.suite.task import Trial

__all__ = ["SequentialDigits", "pixels"]

UNITS, BATCH, RATE, MOMENTUM = 100, 32, 0.01, 0.9
INPUTS = 0.05
TRAINED = 1_437
"""Of 1,797 digits; the others are held out."""


class SequentialDigits(LoopTask):
    """A ReLU recurrence begun at the identity: steps within the bounds of a clip can still blow it up."""

    def __init__(self) -> None:
        super().__init__(
            name="sequential-digits",
            title="Digits pixel by pixel, ReLU RNN begun at the identity, SGD with momentum",
            about=f"1,797 digits of 8 x 8 pixels (UCI, in scikit-learn), 64 steps; {UNITS} units, other"
            f" weights begun at a deviation of {INPUTS}, SGD at {RATE} with momentum {MOMENTUM}, batch"
            f" {BATCH}. Le, Jaitly, Hinton 2015 (arXiv:1504.00941) do it with MNIST's 784 pixels and .001.",
            metric="errors",
            sizes={
                "tiny": {"updates": 6, "every": 3},
                "small": {"updates": 270, "every": 90},
                "full": {"updates": 2_000, "every": 200},
            },
            seconds={"tiny": 0.1, "small": 1.7, "full": 13},
        )

    def build(self, trial: Trial) -> Training:
        size = self.sizes[trial.budget]
        x, y = pixels()
        model = Elman(1, UNITS, 10, "relu", layer_norm=trial.variant.layer_norm)
        model.start_(inputs=INPUTS, recurrent=torch.eye(UNITS))
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=RATE * trial.variant.rate,
            momentum=MOMENTUM,
            weight_decay=trial.variant.weight_decay,
        )
        drawn = torch.Generator().manual_seed(trial.seed)

        def updates() -> Iterator[Update]:
            while True:
                for chosen in torch.randperm(TRAINED, generator=drawn).split(BATCH)[:-1]:
                    yield nn.functional.cross_entropy(model(x[chosen]), y[chosen]), 0

        def evaluate() -> dict[str, float]:
            logits = model(x[TRAINED:])
            return {
                "errors": float((logits.argmax(1) != y[TRAINED:]).double().mean()),
                "loss": float(nn.functional.cross_entropy(logits, y[TRAINED:])),
            }

        return Training(model, [optimizer], updates, evaluate, size["updates"], size["every"])


@lru_cache(maxsize=1)
def pixels() -> tuple[Tensor, Tensor]:
    """``(1797, 64, 1)`` from 0 to 1, and the digits, always in the same shuffled order."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(images, dtype=torch.float32)[order, :, None] / 16
    return x, torch.as_tensor(digits)[order]
