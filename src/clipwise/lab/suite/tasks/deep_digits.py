"""Digits at a glance by a deep network, which batch normalisation was made for."""

from collections.abc import Iterator

import torch
from torch import nn

from clipwise.lab.suite.loop import LoopTask, Training, Update
from clipwise.lab.suite.methods import METHODS, Method, Variant
from clipwise.lab.suite.task import Trial
from clipwise.lab.suite.tasks.digits import TRAINED, pixels

__all__ = ["DeepDigits", "deep_network"]

LAYERS, WIDTH, BATCH, RATE, MOMENTUM = 8, 64, 32, 0.3, 0.9
BATCH_NORM = Method("batch-norm", "no clipping, batch norm", None, "rival", (Variant(option="batch-norm"),))


class DeepDigits(LoopTask):
    """A deep ReLU network at a rate that is too high for it, such as batch normalisation is said to allow."""

    def __init__(self) -> None:
        super().__init__(
            name="deep-digits",
            title=f"Digits, {LAYERS} ReLU layers, SGD with momentum at a high rate",
            about=f"1,797 digits of 8 x 8 pixels (UCI, in scikit-learn) at once; {LAYERS} ReLU layers of"
            f" {WIDTH}, SGD at {RATE} with momentum {MOMENTUM}, batch {BATCH}. Beside the other rivals, batch"
            " normalisation before each ReLU (Ioffe, Szegedy 2015, arXiv:1502.03167), which is there to allow"
            " such rates.",
            metric="errors",
            sizes={
                "tiny": {"updates": 6, "every": 3},
                "small": {"updates": 500, "every": 100},
                "full": {"updates": 2_000, "every": 200},
            },
            seconds={"tiny": 0.1, "small": 1, "full": 4.5},
            methods={**METHODS, BATCH_NORM.name: BATCH_NORM},
        )

    def build(self, trial: Trial) -> Training:
        size, variant = self.sizes[trial.budget], trial.variant
        x, y = pixels()
        x = x[:, :, 0]
        norm = "layer-norm" if variant.layer_norm else variant.option
        model = deep_network(x.shape[1], 10, norm)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=RATE * variant.rate, momentum=MOMENTUM, weight_decay=variant.weight_decay
        )
        drawn = torch.Generator().manual_seed(trial.seed)

        def updates() -> Iterator[Update]:
            while True:
                for chosen in torch.randperm(TRAINED, generator=drawn).split(BATCH)[:-1]:
                    yield nn.functional.cross_entropy(model(x[chosen]), y[chosen]), 0

        def evaluate() -> dict[str, float]:
            model.eval()  # batch normalisation by what was seen in training
            logits = model(x[TRAINED:])
            model.train()
            return {
                "errors": float((logits.argmax(1) != y[TRAINED:]).double().mean()),
                "loss": float(nn.functional.cross_entropy(logits, y[TRAINED:])),
            }

        return Training(model, [optimizer], updates, evaluate, size["updates"], size["every"])


def deep_network(inputs: int, outputs: int, norm: str = "") -> nn.Sequential:
    """Eight layers of 64 and a linear one, each begun as He et al. 2015 (arXiv:1502.01852) have it.

    Args:
        inputs, outputs: sizes.
        norm: before each ReLU: ``"batch-norm"``, ``"layer-norm"`` or nothing.
    """
    parts: list[nn.Module] = []
    for into in [inputs, *[WIDTH] * (LAYERS - 1)]:
        parts.append(_linear(into, WIDTH))
        if norm:
            parts.append(nn.BatchNorm1d(WIDTH) if norm == "batch-norm" else nn.LayerNorm(WIDTH))
        parts.append(nn.ReLU())
    return nn.Sequential(*parts, _linear(WIDTH, outputs))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
