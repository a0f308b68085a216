"""The defaults of each task, and what keys may not say together."""

import math
from typing import TYPE_CHECKING

from clipwise.errors import ConfigError

if TYPE_CHECKING:
    from clipwise.lab.config.lab_config import LabConfig

__all__ = ["DEFAULTS", "LEARNING_RATES", "SOURCES", "fill_and_check"]

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


def fill_and_check(config: "LabConfig") -> None:
    """Fill in the defaults of the task and refuse what contradicts itself; `ConfigError` names the key."""
    _check_model(config)
    _check_data(config)
    _check_training(config)


def _check_model(config: "LabConfig") -> None:
    size = config.model_parameters
    if config.model_type == "Transformer":
        size.heads = size.heads or math.gcd(4, size.hidden_size)
        if size.hidden_size % size.heads:
            raise ConfigError(
                f"model_parameters.heads: must divide hidden_size={size.hidden_size}, got {size.heads}"
            )
    elif size.heads is not None:
        raise ConfigError(
            f"model_parameters.heads: only a Transformer has heads, got model_type {config.model_type!r}"
        )


def _check_data(config: "LabConfig") -> None:
    data, task = config.data, config.task
    for key in data.model_fields_set:
        if getattr(data, key) is not None and key not in DATA_KEYS[task]:
            raise ConfigError(
                f"data.{key}: is not used by {task}; allowed: {', '.join(sorted(DATA_KEYS[task]))}"
            )
    if data.source and data.path:
        raise ConfigError(
            f"data.source and data.path contradict each other: {data.source!r} and {data.path!r}"
        )
    columns = [k for k in ("sequence_key", "time_column", "target", "value_column") if k in DATA_KEYS[task]]
    if data.path is None:
        data.source = data.source or SOURCES[task][0]  # type: ignore[assignment]
        if data.source not in SOURCES[task]:
            allowed = " or ".join(repr(s) for s in SOURCES[task])
            raise ConfigError(f"data.source: must be {allowed} for {task}, got {data.source!r}")
        for key in columns:
            if getattr(data, key) is not None:
                raise ConfigError(
                    f"data.{key}: needs data.path; the source {data.source!r} has its own columns"
                )
        return
    for key in columns:
        if getattr(data, key) is None and (task, key) != ("Time_Series_Forecasting", "time_column"):
            raise ConfigError(f"data.{key}: must be given for {task} with data.path: the name of a column")


def _check_training(config: "LabConfig") -> None:
    training, defaults = config.training_parameters, DEFAULTS[config.task]
    if training.epochs is not None and training.steps is not None:
        raise ConfigError(
            "training_parameters.epochs and training_parameters.steps contradict each other:"
            f" give one of the two, got {training.epochs} and {training.steps}"
        )
    if training.epochs is None:
        training.steps = training.steps or defaults["steps"]
        training.evaluate_every = training.evaluate_every or max(1, training.steps // 10)
    training.batch_size = training.batch_size or defaults["batch_size"]
    training.sequence_length = training.sequence_length or defaults["sequence_length"]
    training.learning_rate = training.learning_rate or LEARNING_RATES[training.optimizer]
    if training.loss is None and not (config.task == "Sequence_Classification" and config.data.path):
        training.loss = LOSSES[config.task][0]  # type: ignore[assignment]
    # Left out for a table of the user's own it stays None: the number of classes, not known yet, decides.
    if training.loss is not None and training.loss not in LOSSES[config.task]:
        allowed = ", ".join(repr(loss) for loss in LOSSES[config.task])
        raise ConfigError(
            f"training_parameters.loss: must be one of {allowed} for {config.task}, got {training.loss!r}"
        )
    if training.momentum and training.optimizer not in ("SGD", "RMSprop"):
        raise ConfigError(f"training_parameters.momentum: {training.optimizer} has none; SGD and RMSprop do")
    parts = training.accumulate * config.devices
    if training.batch_size % parts:
        raise ConfigError(
            f"training_parameters.batch_size: must be a multiple of accumulate * devices = {parts},"
            f" got {training.batch_size}"
        )
    _ = config.clip  # refuses a clip that cannot be understood, under the path of its key
