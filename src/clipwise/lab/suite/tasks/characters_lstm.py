"""A character model with plain SGD at a rate of 20, which only clipping makes possible."""

from clipwise.lab.suite.configured import Configured

__all__ = ["CHARACTERS_LSTM"]

CHARACTERS_LSTM = Configured(
    name="characters-lstm",
    title="Characters of Shakespeare, LSTM, SGD at a rate of 20",
    about=(
        "1.1 million characters, LSTM of 128 units, batch 20, 64 characters a step: the setting of PyTorch's"
        " word language model (SGD at 20, clip .25), on characters."
    ),
    metric="bits",
    config={
        "model_type": "LSTM",
        "task": "Language_Modeling",
        "model_parameters": {"hidden_size": 128},
        "data": {"source": "shakespeare"},
        "training_parameters": {
            "optimizer": "SGD",
            "learning_rate": 20.0,
            "steps": 1500,
            "batch_size": 20,
            "sequence_length": 64,
        },
    },
    sizes={
        "tiny": {"data": {"max_characters": 20_000}, "training_parameters": {"steps": 6}},
        "small": {"data": {"max_characters": 200_000}, "training_parameters": {"steps": 150}},
        "full": {"training_parameters": {"steps": 1000}},
    },
    seconds={"tiny": 0.3, "small": 2.7, "full": 18},
)
"""``examples/shakespeare-lstm-sgd.json``."""
