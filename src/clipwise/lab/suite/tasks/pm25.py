"""Fine dust in Beijing: SGD with momentum at a rate that explodes without a clip."""

from clipwise.lab.suite.configured import Configured

__all__ = ["PM25"]

PM25 = Configured(
    name="pm25",
    title="Fine dust in Beijing (PM2.5), LSTM, SGD with momentum",
    about="43,824 hours, LSTM of 48 units, SGD at 1 with momentum .9, 24 hours to the next one, batch 128.",
    metric="rmse",
    config={
        "model_type": "LSTM",
        "task": "Time_Series_Forecasting",
        "model_parameters": {"hidden_size": 48},
        "data": {"source": "beijing_pm25"},
        "training_parameters": {
            "optimizer": "SGD",
            "learning_rate": 1.0,
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
    seconds={"tiny": 0.2, "small": 1.9, "full": 8},
)
"""``examples/pm25-lstm.json``."""
