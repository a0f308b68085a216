"""Sequence classification: which class does the last row of a sequence belong to?"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipwise.errors import ConfigError, DataError
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.data.sequences import SequenceData
from clipwise.lab.tasks import metrics
from clipwise.lab.tasks.models import ModelSpec
from clipwise.lab.tasks.task import Autocast, SequenceBatch, Task, evaluating

__all__ = ["SequenceClassification"]

EVALUATED = 4096
"""Held-out examples looked at in one evaluation, at most; evenly spread over them."""


class SequenceClassification(Task):
    """Predict the class of the last row of a sequence from its last ``sequence_length`` rows.

    For two classes the main metric is the AUC: it needs no cut-off. If one class is rare, as cancellations in
    the default data, accuracy hardly changes and F1 depends on the cut-off. For more classes it is the macro
    F1. See `metrics.classification`.
    """

    lower_is_better = False

    def __init__(self, config: LabConfig, data: SequenceData) -> None:
        self.data = data
        self.batch, self.steps = config.batch_size, config.sequence_length
        classes = len(data.classes)
        loss = config.training_parameters.loss or (
            "binary_cross_entropy" if classes == 2 else "cross_entropy"
        )
        self.binary = loss == "binary_cross_entropy"
        if self.binary and classes != 2:
            raise ConfigError(
                f"training_parameters.loss: binary_cross_entropy needs two classes, the target has {classes};"
                " use 'cross_entropy'"
            )
        if len(data.train) < self.batch:
            raise DataError(
                f"{data.name}: {len(data.train)} examples to train on are fewer than"
                f" batch_size {self.batch}; give more rows or a smaller batch"
            )
        self.metric = "auc" if classes == 2 else "f1"
        self.spec = ModelSpec(
            kind=config.model_type,
            outputs=1 if self.binary else classes,
            numeric=data.numeric.shape[1],
            categories=data.sizes,
            sequence_length=self.steps,
            **config.model_parameters.model_dump(exclude_none=True),
        )
        self.steps_per_epoch = len(data.train) // self.batch
        self.summary = data.summary
        self.details = {"classes": list(data.classes), "features": list(data.features)}
        self.base_rate = float((data.labels[data.train] == 1).double().mean())
        every = max(1, -(-len(data.held_out) // EVALUATED))
        self.evaluated = data.held_out[::every]

    def batches(self, seed: int) -> Iterator[SequenceBatch]:
        random = torch.Generator().manual_seed(seed)
        while True:
            order = self.data.train[torch.randperm(len(self.data.train), generator=random)]
            for start in range(0, self.steps_per_epoch * self.batch, self.batch):
                yield self._batch(order[start : start + self.batch])

    def _batch(self, ends: Tensor) -> SequenceBatch:
        """The examples that end on these rows, padded at their end to the longest of them."""
        first = torch.maximum(self.data.first[ends], ends - self.steps + 1)
        lengths = ends - first + 1
        rows = torch.minimum(first[:, None] + torch.arange(int(lengths.max())), ends[:, None])
        categories = self.data.categories[rows] if self.data.sizes else None
        return SequenceBatch(self.data.numeric[rows], self.data.labels[ends], lengths, categories)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        if self.binary:
            return F.binary_cross_entropy_with_logits(outputs[:, 0].float(), y.float())
        return F.cross_entropy(outputs.float(), y)

    def evaluate(self, model: nn.Module, device: torch.device, autocast: Autocast) -> dict[str, float]:
        found: list[Tensor] = []
        with evaluating(model, autocast):
            for ends in torch.split(self.evaluated, 512):
                outputs, _ = self._batch(ends).to(device).through(model, None)
                found.append(outputs.float().cpu())
        logits = torch.cat(found).double().numpy()
        if self.binary:
            # The logit of a yes against 0 for a no: the same probabilities as with two outputs.
            logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
        labels = self.data.labels[self.evaluated].numpy()
        return metrics.classification(logits, labels, len(self.data.classes), self.base_rate)
