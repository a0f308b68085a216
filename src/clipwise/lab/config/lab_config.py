"""What a lab configuration may say, its defaults per task, and one clear line for each mistake in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError

from clipwise.clip import AnyClip, ByName, Chain, Clip
from clipwise.config import parse, to_dict
from clipwise.config.files import read_mapping
from clipwise.errors import ConfigError
from clipwise.lab.config.checks import DEFAULTS, LEARNING_RATES, SOURCES, fill_and_check
from clipwise.lab.config.explain import explain, shown
from clipwise.lab.config.synonyms import with_clipping_in_its_section

__all__ = ["DataConfig", "LabConfig", "ModelParameters", "TrainingParameters", "load_config", "parse_config"]

Task: TypeAlias = Literal["Language_Modeling", "Sequence_Classification", "Time_Series_Forecasting"]
Positive: TypeAlias = Annotated[int, Field(ge=1)]


def _named(*names: str) -> BeforeValidator:
    """Take any spelling of a name: upper or lower case."""
    by_lower = {name.lower(): name for name in names}
    return BeforeValidator(
        lambda value: by_lower.get(value.lower(), value) if isinstance(value, str) else value
    )


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class ModelParameters(_Section):
    """The size of the network.

    Attributes:
        hidden_size: width of the core.
        layers: how many are stacked.
        embedding_size: width of a symbol's embedding, and at most of a category's.
        heads: attention heads (Transformer only); they divide hidden_size; at most 4 when left out.
        dropout: share of activations dropped, in [0, 1).
    """

    hidden_size: Positive = 128
    layers: Positive = 1
    embedding_size: Positive = 64
    heads: Positive | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class DataConfig(_Section):
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


class TrainingParameters(_Section):
    """How it is trained.

    Attributes:
        optimizer: SGD, Adam, AdamW, RMSprop or Adagrad.
        learning_rate: torch's default for the optimizer, 0.1 for SGD.
        momentum: for SGD and RMSprop.
        weight_decay: as in torch.
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

    optimizer: Annotated[Literal["SGD", "Adam", "AdamW", "RMSprop", "Adagrad"], _named(*LEARNING_RATES)] = (
        "Adam"
    )
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    loss: Literal["cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"] | None = None
    epochs: Positive | None = None
    steps: Positive | None = None
    batch_size: Positive | None = None
    sequence_length: Positive | None = None
    accumulate: Positive = 1
    gradient_clipping: Any = None
    nonfinite: Literal["skip", "zero", "error", "propagate"] = "skip"
    evaluate_every: Positive | None = None


class LabConfig(_Section):
    """A whole configuration with every default filled in; made by `load_config` or `parse_config`.

    Attributes:
        model_type: LSTM, GRU, RNN (tanh) or Transformer, in any case.
        task: Language_Modeling, Sequence_Classification or Time_Series_Forecasting, in any case.
        model_parameters, data, training_parameters: see the sections.
        seed: fixes the weights at the start and the order of the data.
        device: ``"auto"`` takes a CUDA GPU, then Apple's, then the CPU.
        devices: how many of them.
        precision: ``"32"``, ``"bf16"`` (autocast) or ``"16"`` (autocast with a gradient scaler; CUDA only).
    """

    model_type: Annotated[
        Literal["LSTM", "GRU", "RNN", "Transformer"], _named("LSTM", "GRU", "RNN", "Transformer")
    ]
    task: Annotated[Task, _named(*SOURCES)]
    model_parameters: ModelParameters = Field(default_factory=ModelParameters)
    data: DataConfig = Field(default_factory=DataConfig)
    training_parameters: TrainingParameters = Field(default_factory=TrainingParameters)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Positive = 1
    precision: Annotated[
        Literal["32", "bf16", "16"], BeforeValidator(lambda v: str(v) if v in (16, 32) else v)
    ] = "32"

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)
    _folder: Path = PrivateAttr(default_factory=Path)

    @property
    def clip(self) -> AnyClip | None:
        """The clip that ``training_parameters.gradient_clipping`` describes; None for no clipping."""
        return parse(
            {"training_parameters": {"gradient_clipping": self.training_parameters.gradient_clipping}}
        )

    @property
    def batch_size(self) -> int:
        """``training_parameters.batch_size``, filled in."""
        return self.training_parameters.batch_size or DEFAULTS[self.task]["batch_size"]

    @property
    def sequence_length(self) -> int:
        """``training_parameters.sequence_length``, filled in."""
        return self.training_parameters.sequence_length or DEFAULTS[self.task]["sequence_length"]

    @property
    def data_path(self) -> Path | None:
        """The user's own file, found from the folder of the configuration file; ``~`` is the home folder."""
        if self.data.path is None:
            return None
        try:
            return self._folder / Path(self.data.path).expanduser()
        except RuntimeError as error:
            raise ConfigError(
                f"data.path: must begin with a home folder that is known, got {shown(self.data.path)}"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Every key with its value, defaults filled in, as plain values that JSON can hold."""
        plain = self.model_dump()
        given = self.training_parameters.gradient_clipping
        if isinstance(given, Clip | Chain | ByName):
            plain["training_parameters"]["gradient_clipping"] = to_dict(given)
        return plain

    def override(self, *, steps: int | None = None, **top: Any) -> "LabConfig":
        """A copy with other ``steps`` (in place of epochs) or top-level keys; None leaves a key as it is.

        >>> config = parse_config({"model_type": "GRU", "task": "Language_Modeling"})
        >>> config.override(seed=3, steps=200).training_parameters.evaluate_every
        20
        """
        given = dict(self._given) | {key: value for key, value in top.items() if value is not None}
        if steps is not None:
            training = dict(given.get("training_parameters", {}))
            training.pop("epochs", None)
            given["training_parameters"] = training | {"steps": steps}
        return parse_config(given, folder=self._folder)


def parse_config(data: Mapping[str, Any], *, folder: Path | None = None) -> LabConfig:
    """A mapping as a checked configuration with its defaults filled in.

    Args:
        data: the keys of `LabConfig`; only ``model_type`` and ``task`` must be there. ``gradient_clipping``
            may also stand at the top, outside ``training_parameters``.
        folder: what ``data.path`` is relative to; the working folder when left out.

    Raises:
        ConfigError: one line for each mistake, beginning with the path of its key.

    >>> parse_config({"model_type": "gru", "task": "language_modeling"}).training_parameters.learning_rate
    0.001
    >>> parse_config({"model_type": "GRU", "task": "Language_Modeling", "sead": 1})
    Traceback (most recent call last):
    clipwise.errors.ConfigError: sead: unknown key. Did you mean 'seed'?
    """
    data = with_clipping_in_its_section(data)
    try:
        config = LabConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, LabConfig)) from None
    fill_and_check(config)
    config._given, config._folder = data, folder or Path()
    _ = config.data_path  # refuses the home folder of a user who is not there
    return config


def load_config(path: str | Path) -> LabConfig:
    """A configuration from a JSON or YAML file; ``data.path`` in it is relative to the file's folder.

    Raises:
        ConfigError: the file is missing or malformed, or says something that is not allowed.
    """
    path = Path(path)
    return parse_config(read_mapping(path), folder=path.parent)
