"""A character model as courses and texts write it: GRU and RMSprop."""

from clipwise.lab.suite.configured import Configured

__all__ = ["CHARACTERS_GRU"]

CHARACTERS_GRU = Configured(
    name="characters-gru",
    title="Characters of Shakespeare, GRU, RMSprop",
    about=(
        "1.1 million characters, GRU of 128 units, RMSprop at .01, batch 32, 64 characters a step: as the"
        " texts on sequence models have it, where the threshold is 5."
    ),
    metric="bits",
    config={
        "model_type": "GRU",
        "task": "Language_Modeling",
        "data": {"source": "shakespeare"},
        "training_parameters": {"optimizer": "RMSprop"},
    },
    sizes={
        "tiny": {"data": {"max_characters": 20_000}, "training_parameters": {"steps": 6}},
        "small": {"data": {"max_characters": 200_000}, "training_parameters": {"steps": 100}},
        "full": {"training_parameters": {"steps": 500}},
    },
    seconds={"tiny": 0.3, "small": 3.3, "full": 17},
)
"""Shakespeare's characters with the settings of ``examples/chatbot-gru.json``."""
