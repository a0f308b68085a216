"""Support chat with the settings of the texts."""

from clipwise.lab.suite.configured import Configured

__all__ = ["SUPPORT_CHAT"]

SUPPORT_CHAT = Configured(
    name="support-chat",
    title="Support chat, GRU, RMSprop",
    about=(
        "Short English conversations, GRU of 128 units, RMSprop at .01: the chatbot of the texts, which clip"
        " at 5; its norms stay below that."
    ),
    metric="bits",
    config={
        "model_type": "GRU",
        "task": "Language_Modeling",
        "data": {"source": "chatterbot"},
        "training_parameters": {"optimizer": "RMSprop", "steps": 500},
    },
    sizes={
        "tiny": {"training_parameters": {"steps": 6}},
        "small": {"training_parameters": {"steps": 80}},
        "full": {"training_parameters": {"steps": 300}},
    },
    seconds={"tiny": 0.3, "small": 2.9, "full": 11},
)
"""``examples/chatbot-gru.json``."""
