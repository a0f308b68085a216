"""A small Transformer with AdamW, which hardly needs a clip."""

from clipwise.lab.suite.configured import Configured

__all__ = ["CHARACTERS_TRANSFORMER"]

CHARACTERS_TRANSFORMER = Configured(
    name="characters-transformer",
    title="Characters of Shakespeare, Transformer, AdamW",
    about="1.1 million characters, a pre-norm Transformer of two layers of 64, AdamW at .003, batch 32.",
    metric="bits",
    has_norm=False,
    config={
        "model_type": "Transformer",
        "task": "Language_Modeling",
        "model_parameters": {"hidden_size": 64, "layers": 2},
        "data": {"source": "shakespeare"},
        "training_parameters": {
            "optimizer": "AdamW",
            "learning_rate": 3e-3,
            "batch_size": 32,
            "sequence_length": 48,
        },
    },
    sizes={
        "tiny": {"data": {"max_characters": 20_000}, "training_parameters": {"steps": 6}},
        "small": {"data": {"max_characters": 200_000}, "training_parameters": {"steps": 100}},
        "full": {"training_parameters": {"steps": 500}},
    },
    seconds={"tiny": 0.4, "small": 3.8, "full": 19},
)
"""Pre-norm, two layers of 64; it has its layer norm already."""
