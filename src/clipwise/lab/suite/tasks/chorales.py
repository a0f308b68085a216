"""Bach's chorales: the next chord from those before it."""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from clipwise.lab.suite.loop import LoopTask, Training, Update
from clipwise.lab.suite.models import Elman
from clipwise.lab.suite.task import Trial

__all__ = ["Chorales", "next_chord_nll", "split_rolls"]

UNITS, BATCH, STEPS, RATE = 100, 20, 50, 0.5
HELD_OUT = 0.2
"""Of the chorales, drawn once."""


class Chorales(LoopTask):
    """A tanh recurrence and plain SGD, as Pascanu, Mikolov, Bengio 2013 have it for polyphonic music."""

    def __init__(self) -> None:
        super().__init__(
            name="chorales",
            title="The next chord of Bach's chorales, tanh RNN, SGD",
            about=f"365 chorales in four parts (music21), 39,728 eighth notes, a fifth of them held out; 88"
            f" keys that sound or not, tanh RNN of {UNITS} units, SGD at {RATE}, batches of {BATCH} pieces of"
            f" {STEPS} steps. Pascanu, Mikolov, Bengio 2013, section 4.2, have other music.",
            metric="nll",
            sizes={
                "tiny": {"updates": 6, "every": 3, "test": 4},
                "small": {"updates": 120, "every": 40, "test": 73},
                "full": {"updates": 1_140, "every": 114, "test": 73},
            },
            seconds={"tiny": 0.2, "small": 1.2, "full": 11},
        )

    def build(self, trial: Trial) -> Training:
        size = self.sizes[trial.budget]
        train, test = split_rolls()
        pieces = [piece for roll in train for piece in roll.split(STEPS) if len(piece) > 1]
        held_out = _padded(test[: size["test"]])
        model = Elman(
            pieces[0].shape[1],
            UNITS,
            pieces[0].shape[1],
            "tanh",
            layer_norm=trial.variant.layer_norm,
            each=True,
        )
        optimizer = torch.optim.SGD(
            model.parameters(), lr=RATE * trial.variant.rate, weight_decay=trial.variant.weight_decay
        )
        drawn = torch.Generator().manual_seed(trial.seed)

        def updates() -> Iterator[Update]:
            while True:
                for chosen in torch.randperm(len(pieces), generator=drawn).split(BATCH)[:-1]:
                    yield next_chord_nll(model, *_padded([pieces[i] for i in chosen.tolist()])), 0

        def evaluate() -> dict[str, float]:
            return {"nll": float(next_chord_nll(model, *held_out))}

        return Training(model, [optimizer], updates, evaluate, size["updates"], size["every"])


def next_chord_nll(model: nn.Module, x: Tensor, known: Tensor) -> Tensor:
    """The negative log-likelihood of the next chord in nats, all keys together, a mean over the steps.

    Args:
        model: from ``(B, T - 1, keys)`` to logits of the same shape.
        x: ``(B, T, keys)`` chords, 0 or 1.
        known: ``(B, T - 1)`` which of the next chords are there.
    """
    logits = model(x[:, :-1])
    each = nn.functional.binary_cross_entropy_with_logits(logits, x[:, 1:], reduction="none").sum(2)
    return (each * known).sum() / known.sum()


def _padded(rolls: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Chords with zeros behind the shorter ones, and which of the next chords are there."""
    x = pad_sequence(rolls, batch_first=True)
    lengths = torch.tensor([len(roll) for roll in rolls])
    return x, (torch.arange(1, x.shape[1]) < lengths[:, None]).float()


@lru_cache(maxsize=1)
def split_rolls() -> tuple[list[Tensor], list[Tensor]]:
    """The chorales to learn from and those that are held out, always the same."""
    from clipwise.lab.data.chorales import chorales

    rolls = [torch.as_tensor(roll, dtype=torch.float32) for roll in chorales()]
    order = torch.randperm(len(rolls), generator=torch.Generator().manual_seed(0)).tolist()
    cut = round(len(rolls) * HELD_OUT)
    return [rolls[i] for i in order[cut:]], [rolls[i] for i in order[:cut]]
