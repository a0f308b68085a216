"""Defaults that depend on other keys, and combinations that are not allowed; `ConfigError` names the key."""

import math

from clipwise.errors import ConfigError
from clipwise.lab.config.defaults import DATA_KEYS, DEFAULTS, LEARNING_RATES, LOSSES, SOURCES
from clipwise.lab.config.sections import DataConfig, ModelParameters, Task, TrainingParameters

__all__ = ["check_data", "check_model", "check_strategy", "check_training"]


def check_model(model_type: str, size: ModelParameters) -> None:
    """Fill in the number of heads of a Transformer, and refuse numbers that do not fit."""
    if model_type == "Transformer":
        size.heads = size.heads or math.gcd(4, size.hidden_size)
        if size.hidden_size % size.heads:
            raise ConfigError(
                f"model_parameters.heads: must divide hidden_size={size.hidden_size}, got {size.heads}"
            )
    elif size.heads is not None:
        raise ConfigError(
            f"model_parameters.heads: only a Transformer has heads, got model_type {model_type!r}"
        )


def check_data(task: Task, data: DataConfig) -> None:
    """Fill in the source, and refuse keys that the task or the data does not use."""
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


def check_training(training: TrainingParameters, task: Task, data: DataConfig, devices: int) -> None:
    """Fill in the task's defaults, and refuse contradictions."""
    defaults = DEFAULTS[task]
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
    if training.loss is None and not (task == "Sequence_Classification" and data.path):
        training.loss = LOSSES[task][0]  # type: ignore[assignment]
    # Left out for a table of the user's own it stays None: the number of classes, not known yet, decides.
    if training.loss is not None and training.loss not in LOSSES[task]:
        allowed = ", ".join(repr(loss) for loss in LOSSES[task])
        raise ConfigError(
            f"training_parameters.loss: must be one of {allowed} for {task}, got {training.loss!r}"
        )
    if training.momentum and training.optimizer not in ("SGD", "RMSprop"):
        raise ConfigError(
            f"training_parameters.momentum: {training.optimizer} has no momentum; SGD and RMSprop have"
        )
    parts = training.accumulate * devices
    if training.batch_size % parts:
        raise ConfigError(
            f"training_parameters.batch_size: must be a multiple of accumulate * devices = {parts},"
            f" got {training.batch_size}"
        )


def check_strategy(strategy: str, precision: str) -> None:
    """Refuse a precision that sharded models cannot be trained in."""
    if strategy == "fsdp" and precision == "16":
        raise ConfigError("precision: '16' is not for strategy 'fsdp'; use 'bf16' or '32'")
