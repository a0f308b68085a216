"""The keys that each task accepts, and their defaults."""

__all__ = ["DATA_KEYS", "DEFAULTS", "LEARNING_RATES", "LOSSES", "SOURCES"]

SOURCES = {
    "Language_Modeling": ("shakespeare", "chatterbot"),
    "Sequence_Classification": ("online_retail",),
    "Time_Series_Forecasting": ("beijing_pm25",),
}
LOSSES = {
    "Language_Modeling": ("cross_entropy",),
    "Sequence_Classification": ("binary_cross_entropy", "cross_entropy"),
    "Time_Series_Forecasting": ("mse", "mae", "huber"),
}
DATA_KEYS = {
    "Language_Modeling": {"source", "path", "max_characters"},
    "Sequence_Classification": {
        "source",
        "path",
        "sequence_key",
        "time_column",
        "target",
        "features",
        "max_rows",
    },
    "Time_Series_Forecasting": {"source", "path", "time_column", "value_column", "features", "max_rows"},
}
LEARNING_RATES = {"SGD": 0.1, "Adam": 0.001, "AdamW": 0.001, "RMSprop": 0.01, "Adagrad": 0.01}
"""torch's own defaults, and 0.1 for SGD."""

DEFAULTS: dict[str, dict[str, int]] = {
    "Language_Modeling": {"steps": 1500, "batch_size": 32, "sequence_length": 64},
    "Sequence_Classification": {"steps": 1500, "batch_size": 64, "sequence_length": 32},
    "Time_Series_Forecasting": {"steps": 1000, "batch_size": 64, "sequence_length": 48},
}
