"""The sections of a lab configuration: their keys, and what is allowed for each."""

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
    """Take any spelling of a name: upper or lower case."""
    by_lower = {name.lower(): name for name in names}
    return BeforeValidator(
        lambda value: by_lower.get(value.lower(), value) if isinstance(value, str) else value
    )


class Section(BaseModel):
    """Unknown keys, NaN, Inf and values of another type are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ModelParameters(Section):
    """The size of the network.

    Attributes:
        hidden_size: width of the core.
        layers: how many are stacked.
        embedding_size: width of a symbol's embedding, and at most of a category's.
        heads: attention heads (Transformer only); they divide hidden_size; at most 4 when left out.
        dropout: share of activations dropped, in [0, 1).
        layer_norm: normalise what enters a recurrent core and what leaves it; a Transformer always does.
    """

    hidden_size: Positive = 128
    layers: Positive = 1
    embedding_size: Positive = 64
    heads: Positive | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    layer_norm: bool = False


class DataConfig(Section):
    """Where the data comes from: a named ``source``, or a file of your own at ``path``.

    Attributes:
        source: ``"shakespeare"``, ``"chatterbot"``, ``"online_retail"`` or ``"beijing_pm25"``.
        path: a text file, or a CSV file, also packed (``.gz``, ``.xz``); relative to the configuration file.
        sequence_key: the column that says which rows belong together.
        time_column: the column that orders them; numbers or times.
        target: the column to predict, two or more classes.
        value_column: the series to forecast.
        features: columns the model sees; for classification all others when left out, for forecasting none.
        max_characters: only the first so many characters of a text.
        max_rows: only the first so many rows of a table.
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
    """How it is trained.

    Attributes:
        optimizer: SGD, Adam, AdamW, RMSprop or Adagrad.
        learning_rate: torch's default for the optimizer, 0.1 for SGD.
        momentum: for SGD and RMSprop.
        weight_decay: as in torch.
        warmup: steps over which the learning rate rises to its full value, along a straight line.
        decay: what it does after them: nothing, or it falls to 0 at the end of the run.
        loss: one that fits the task. Left out for classes of your own it stays None, which means
            ``"binary_cross_entropy"`` where there are two and ``"cross_entropy"`` where there are more.
        epochs, steps: how long: one of the two. A step is one update of the weights.
        batch_size: sequences an update, over all devices and accumulated batches.
        sequence_length: steps of a sequence: characters, rows of one key, or values of the series.
        accumulate: in how many batches a step's sequences are worked through.
        gradient_clipping: anything `clipwise.config.parse` reads; none when left out.
        nonfinite: what happens to a gradient with NaN or Inf; without clipping it always goes through.
        evaluate_every: steps between two looks at the held-out data; a tenth of the run when left out.
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
