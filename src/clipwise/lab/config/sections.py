"""The sections of a lab configuration: their keys and allowed values."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from clipwise.lab.config.defaults import LEARNING_RATES

__all__ = [
    "DataConfig",
    "Decay",
    "ModelParameters",
    "Positive",
    "Section",
    "Task",
    "TrainingParameters",
    "named",
]

Task: TypeAlias = Literal["Language_Modeling", "Sequence_Classification", "Time_Series_Forecasting"]
Positive: TypeAlias = Annotated[int, Field(ge=1)]
Decay: TypeAlias = Literal["constant", "linear", "cosine"]


def named(*names: str) -> BeforeValidator:
    """Accept a name in upper or lower case."""
    by_lower = {name.lower(): name for name in names}
    return BeforeValidator(
        lambda value: by_lower.get(value.lower(), value) if isinstance(value, str) else value
    )


class Section(BaseModel):
    """Refuses unknown keys, NaN, Inf and values of another type."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ModelParameters(Section):
    """The size of the network.

    Attributes:
        hidden_size: width of the core.
        layers: number of stacked layers.
        embedding_size: width of a symbol's embedding, and the largest width of a category's.
        heads: attention heads (Transformer only), which must divide hidden_size; by default at most 4.
        dropout: share of activations dropped, in [0, 1).
        layer_norm: normalise the input and output of a recurrent core; a Transformer always does.
    """

    hidden_size: Positive = 128
    layers: Positive = 1
    embedding_size: Positive = 64
    heads: Positive | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    layer_norm: bool = False


class DataConfig(Section):
    """The data: a named ``source``, or a file of your own at ``path``.

    Attributes:
        source: ``"shakespeare"``, ``"chatterbot"``, ``"online_retail"`` or ``"beijing_pm25"``.
        path: a text or CSV file, which may be compressed (``.gz``, ``.xz``); relative to the configuration
            file.
        sequence_key: the column that identifies the sequence of a row.
        time_column: the column that orders the rows; numbers or times.
        target: the column to predict, with two or more classes.
        value_column: the series to forecast.
        features: columns that the model sees; by default all others for classification, none for forecasting.
        max_characters: use only the first so many characters of a text.
        max_rows: use only the first so many rows of a table.
    """

    source: Literal["shakespeare", "chatterbot", "online_retail", "beijing_pm25"] | None = None
    path: Annotated[str, Field(min_length=1)] | None = None
    sequence_key: str | None = None
    time_column: str | None = None
    target: str | None = None
    value_column: str | None = None
    features: list[str] | None = None
    max_characters: Positive | None = None
    max_rows: Positive | None = None


class TrainingParameters(Section):
    """The training.

    Attributes:
        optimizer: SGD, Adam, AdamW, RMSprop or Adagrad.
        learning_rate: by default torch's for the optimizer, 0.1 for SGD.
        momentum: for SGD and RMSprop.
        weight_decay: as in torch.
        warmup: steps of linear warm-up of the learning rate.
        decay: what follows the warm-up: a constant learning rate, or a decay to 0 at the end of the run.
        loss: a loss that fits the task. By default ``"binary_cross_entropy"`` for two classes and
            ``"cross_entropy"`` for more; for classes of your own it stays None until the data is read.
        epochs, steps: length of the training; one of the two. A step is one update of the weights.
        batch_size: sequences per update, over all devices and accumulated batches.
        sequence_length: steps of a sequence: characters, rows of one key, or values of the series.
        accumulate: number of micro-batches per update (gradient accumulation).
        gradient_clipping: anything that `clipwise.config.parse` reads; none by default.
        nonfinite: what to do about gradients with NaN or Inf; without clipping they are always used.
        evaluate_every: steps between evaluations on the held-out data; by default a tenth of the run.
    """

    optimizer: Annotated[Literal["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"], named(*LEARNING_RATES)] = (
        "Adam"
    )
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0
    decay: Decay = "constant"
    loss: Literal["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"] | None = None
    epochs: Positive | None = None
    steps: Positive | None = None
    batch_size: Positive | None = None
    sequence_length: Positive | None = None
    accumulate: Positive = 1
    gradient_clipping: Any = None
    nonfinite: Literal["skip", "zero", "error", "propagate"] = "skip"
    evaluate_every: Positive | None = None
