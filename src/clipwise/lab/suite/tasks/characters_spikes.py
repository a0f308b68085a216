"""A Transformer with AdamW that is given a bad batch now and then."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch

from clipwise.lab.suite.loop import LoopTask, Training, Update
from clipwise.lab.suite.task import Trial
from clipwise.lab.suite.tasks.characters_transformer import CHARACTERS_TRANSFORMER
from clipwise.lab.tasks.models import build_model
from clipwise.lab.training.optimizers import make_optimizer

__all__ = ["CharactersSpikes"]

EVERY, WEIGHT = 60, 20.0
"""Steps from one bad batch to the next, and how much more than others it counts."""


class CharactersSpikes(LoopTask):
    """The task ``characters-transformer``, in which every sixtieth batch is noise and counts twenty times."""

    def __init__(self) -> None:
        calm = CHARACTERS_TRANSFORMER
        super().__init__(
            name="characters-spikes",
            title=f"{calm.title}, a bad batch every {EVERY} steps",
            about=f"{calm.about} In every {EVERY}th batch the characters to be predicted are drawn by lot,"
            f" and its loss counts {WEIGHT:g} times.",
            metric=calm.metric,
            sizes=calm.sizes,
            seconds=calm.seconds,
            has_norm=False,
        )

    def build(self, trial: Trial) -> Training:
        from clipwise.lab.tasks.load import load_task  # loads scikit-learn

        config = CHARACTERS_TRANSFORMER.configuration(trial.budget, trial.variant)
        training = config.training_parameters
        task = load_task(config)
        model = build_model(task.spec)
        drawn = torch.Generator().manual_seed(trial.seed)

        def updates() -> Iterator[Update]:
            for step, batch in enumerate(task.batches(trial.seed), start=1):
                outputs, _ = batch.through(model, None)
                y, weight = batch.y, 1.0
                if step % EVERY == EVERY // 2:
                    y, weight = torch.randint(task.spec.vocabulary, y.shape, generator=drawn), WEIGHT
                yield weight * task.loss(outputs, y), 0

        def evaluate() -> dict[str, float]:
            return task.evaluate(model, torch.device("cpu"), nullcontext)

        optimizer = make_optimizer(training, model.parameters())
        steps, every = training.steps or 0, training.evaluate_every or 1
        return Training(model, [optimizer], updates, evaluate, steps, every)
