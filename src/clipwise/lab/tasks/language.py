"""Language modelling: predict the next character, in bits."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.data.text import Corpus
from clipwise.lab.tasks import metrics
from clipwise.lab.tasks.models import ModelSpec, State, detached
from clipwise.lab.tasks.task import Autocast, SequenceBatch, Task, evaluating

__all__ = ["LanguageModeling"]

EVALUATED = 50_000
"""Held-out characters looked at in one evaluation, at most."""


class LanguageModeling(Task):
    """Character by character; the metric is held-out bits per character.

    A recurrent model reads ``batch_size`` continuous streams of the text and carries its detached state from
    one step to the next: truncated backpropagation through time. A Transformer, which has no state, reads
    windows from random places.
    """

    metric = "bits"
    lower_is_better = True

    def __init__(self, config: LabConfig, corpus: Corpus) -> None:
        self.batch, self.steps = config.batch_size, config.sequence_length
        self.recurrent = config.model_type != "Transformer"
        self.corpus = corpus
        self.spec = ModelSpec(
            kind=config.model_type,
            outputs=len(corpus.characters),
            vocabulary=len(corpus.characters),
            per_step=True,
            sequence_length=self.steps,
            **config.model_parameters.model_dump(exclude_none=True),
        )
        self.steps_per_epoch = max(1, (len(corpus.train) // self.batch - 1) // self.steps)
        self.details = {"characters": "".join(corpus.characters)}
        self.summary = (
            f"{corpus.name}: {len(corpus.train):,} characters to train on and the {len(corpus.held_out):,}"
            f" after them held out, {len(corpus.characters)} symbols"
        )

    def batches(self, seed: int) -> Iterator[SequenceBatch]:
        random = torch.Generator().manual_seed(seed)
        return self._streams(random) if self.recurrent else self._windows(random)

    def _streams(self, random: torch.Generator) -> Iterator[SequenceBatch]:
        width = len(self.corpus.train) // self.batch
        slack = (width - 1) % self.steps + 1
        while True:
            # Each epoch begins elsewhere, so that the cuts between the chunks fall on other characters.
            offset = int(torch.randint(slack, (), generator=random))
            streams = self.corpus.train[: width * self.batch].view(self.batch, width)[:, offset:].long()
            yield from _chunks(streams, self.steps)

    def _windows(self, random: torch.Generator) -> Iterator[SequenceBatch]:
        text, reach = self.corpus.train, torch.arange(self.steps + 1)
        while True:
            starts = torch.randint(len(text) - self.steps, (self.batch, 1), generator=random)
            window = text[starts + reach].long()
            yield SequenceBatch(window[:, :-1], window[:, 1:])

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten())

    def evaluate(self, model: nn.Module, device: torch.device, autocast: Autocast) -> dict[str, float]:
        text = self.corpus.held_out[: EVALUATED + 1]
        # Fewer streams where the held-out part is short, so that each is at least one chunk long.
        streams = max(1, min(64, (len(text) - 1) // (self.steps + 1)))
        width = len(text) // streams
        total, right, count = 0.0, 0, 0
        state: State = None
        with evaluating(model, autocast):
            for batch in _chunks(text[: width * streams].view(streams, width).long(), self.steps):
                batch = batch.to(device)
                outputs, state = batch.through(model, detached(state) if batch.continues else None)
                logits = outputs.float().flatten(0, 1)
                total += F.cross_entropy(logits, batch.y.flatten(), reduction="sum").item()
                right += int((logits.argmax(-1) == batch.y.flatten()).sum())
                count += batch.y.numel()
        return metrics.language(total / count, right / count)


def _chunks(streams: Tensor, steps: int) -> Iterator[SequenceBatch]:
    """Consecutive chunks of every stream with the characters that follow; the first one starts anew."""
    for start in range(0, streams.shape[1] - steps, steps):
        here = slice(start, start + steps), slice(start + 1, start + steps + 1)
        yield SequenceBatch(streams[:, here[0]], streams[:, here[1]], continues=start > 0)
