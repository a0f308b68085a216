"""AutoClip's percentiles, one beside the other."""

from clipwise.lab.suite.configured import Configured
from clipwise.lab.suite.methods import BASELINE, percentiles

__all__ = ["PERCENTILES"]

PERCENTILES = Configured(
    name="autoclip-percentiles",
    title="AutoClip's percentiles, characters of Shakespeare, LSTM, Adam",
    about=(
        "The percentile of all norms so far as the threshold, as Seetharaman et al. 2020 (arXiv:2007.14469)"
        " try it on the separation of voices with Adam; here a character model, LSTM of 128 units, Adam at"
        " .003."
    ),
    metric="bits",
    methods={one.name: one for one in (BASELINE, *percentiles(1, 10, 25, 50, 90))},
    config={
        "model_type": "LSTM",
        "task": "Language_Modeling",
        "data": {"source": "shakespeare"},
        "training_parameters": {"optimizer": "Adam", "learning_rate": 3e-3, "batch_size": 20},
    },
    sizes={
        "tiny": {"data": {"max_characters": 20_000}, "training_parameters": {"steps": 6}},
        "small": {"data": {"max_characters": 200_000}, "training_parameters": {"steps": 120}},
        "full": {"training_parameters": {"steps": 800}},
    },
    seconds={"tiny": 0.3, "small": 2.3, "full": 15},
)
"""No clipping is the hundredth percentile."""
