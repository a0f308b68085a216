"""Time series forecasting: the next value from the last ones."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipwise.errors import DataError
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.data.series import TimeSeries
from clipwise.lab.tasks import metrics
from clipwise.lab.tasks.models import ModelSpec
from clipwise.lab.tasks.task import Autocast, SequenceBatch, Task, evaluating

__all__ = ["TimeSeriesForecasting"]

EVALUATED = 4096
"""Held-out values forecast in one evaluation, at most; evenly spread over them."""

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": F.mse_loss,
    "mae": F.l1_loss,
    "huber": F.huber_loss,
}


class TimeSeriesForecasting(Task):
    """Predict the next value from the last ``sequence_length``; the metric is the standardised RMSE.

    It is in standard deviations of the training part.
    """

    metric = "rmse"
    lower_is_better = True

    def __init__(self, config: LabConfig, series: TimeSeries) -> None:
        self.series = series
        self.batch, self.steps = config.batch_size, config.sequence_length
        self.loss_name = config.training_parameters.loss or "mse"
        moments = torch.arange(len(series.features))
        possible = series.observed & (moments >= self.steps)
        self.train = moments[possible & (moments < series.cut)]
        held_out = moments[possible & (moments >= series.cut)]
        if len(self.train) < self.batch or not len(held_out):
            raise DataError(
                f"{series.name}: {len(moments)} values are too few; with sequence_length"
                f" {self.steps} they make {len(self.train)} examples to train on (batch_size is {self.batch})"
                f" and {len(held_out)} to hold out"
            )
        self.evaluated = held_out[:: max(1, -(-len(held_out) // EVALUATED))]
        self.spec = ModelSpec(
            kind=config.model_type,
            outputs=1,
            numeric=series.features.shape[1],
            sequence_length=self.steps,
            **config.model_parameters.model_dump(exclude_none=True),
        )
        self.steps_per_epoch = len(self.train) // self.batch
        self.summary = series.summary
        self.details = {"mean": series.mean, "deviation": series.deviation}

    def batches(self, seed: int) -> Iterator[SequenceBatch]:
        random = torch.Generator().manual_seed(seed)
        while True:
            order = self.train[torch.randperm(len(self.train), generator=random)]
            for start in range(0, self.steps_per_epoch * self.batch, self.batch):
                yield self._batch(order[start : start + self.batch])

    def _batch(self, moments: Tensor) -> SequenceBatch:
        """Each moment's value, and the values before it."""
        window = moments[:, None] + torch.arange(-self.steps, 0)
        return SequenceBatch(self.series.features[window], self.series.features[moments, 0])

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return LOSSES[self.loss_name](outputs[:, 0].float(), y)

    def evaluate(self, model: nn.Module, device: torch.device, autocast: Autocast) -> dict[str, float]:
        found: list[Tensor] = []
        with evaluating(model, autocast):
            for moments in torch.split(self.evaluated, 512):
                outputs, _ = self._batch(moments).to(device).through(model, None)
                found.append(outputs.float().cpu())
        predicted, actual = torch.cat(found), self.series.features[self.evaluated, 0]
        figures = metrics.forecasting(
            predicted[:, 0].double().numpy(), actual.double().numpy(), self.series.deviation
        )
        return figures | {"loss": self.loss(predicted.double(), actual.double()).item()}
