"""torch's optimizers from a configuration."""

from collections.abc import Iterable
from typing import Any

from torch import nn, optim

from clipwise.lab.config.sections import TrainingParameters

__all__ = ["make_optimizer"]

OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    "SGD": optim.SGD,
    "Adam": optim.Adam,
    "AdamW": optim.AdamW,
    "RMSprop": optim.RMSprop,
    "Adagrad": optim.Adagrad,
}


def make_optimizer(training: TrainingParameters, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """The optimizer that ``training`` names, with its learning rate, weight decay and momentum."""
    options: dict[str, Any] = {"lr": training.learning_rate, "weight_decay": training.weight_decay}
    if training.optimizer in ("SGD", "RMSprop"):
        options["momentum"] = training.momentum
    return OPTIMIZERS[training.optimizer](parameters, **options)
