"""A lab configuration: read, validated, and with all defaults filled in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError

from clipwise.clip import AnyClip, ByName, Chain, Clip
from clipwise.config import parse, to_dict
from clipwise.config.files import read_mapping
from clipwise.errors import ConfigError
from clipwise.lab.config.checks import check_data, check_model, check_strategy, check_training
from clipwise.lab.config.defaults import DEFAULTS, SOURCES
from clipwise.lab.config.explain import explain, shown
from clipwise.lab.config.sections import (
    DataConfig,
    ModelParameters,
    Positive,
    Section,
    Task,
    TrainingParameters,
    named,
)
from clipwise.lab.config.synonyms import with_clipping_in_its_section

__all__ = ["LabConfig", "load_config", "parse_config"]


class LabConfig(Section):
    """A complete configuration with all defaults filled in; created by `load_config` or `parse_config`.

    Attributes:
        model_type: LSTM, GRU, RNN (tanh) or Transformer; case is ignored.
        task: Language_Modeling, Sequence_Classification or Time_Series_Forecasting; case is ignored.
        model_parameters, data, training_parameters: see the sections.
        seed: seed of the initial weights and the order of the data.
        device: ``"auto"`` uses a CUDA GPU if there is one, then Apple's GPU, then the CPU.
        devices: number of devices.
        strategy: what each of several devices holds: the whole model (``"ddp"``) or a shard (``"fsdp"``).
        precision: ``"32"``, ``"bf16"`` (autocast) or ``"16"`` (autocast with a gradient scaler; CUDA only).
    """

    model_type: Annotated[
        Literal["LSTM", "GRU", "RNN", "Transformer"], named("LSTM", "GRU", "RNN", "Transformer")
    ]
    task: Annotated[Task, named(*SOURCES)]
    model_parameters: ModelParameters = Field(default_factory=ModelParameters)
    data: DataConfig = Field(default_factory=DataConfig)
    training_parameters: TrainingParameters = Field(default_factory=TrainingParameters)
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: Positive = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"
    precision: Annotated[
        Literal["32", "bf16", "16"], BeforeValidator(lambda v: str(v) if v in (16, 32) else v)
    ] = "32"

    _given: dict[str, Any] = PrivateAttr(default_factory=dict)
    _folder: Path = PrivateAttr(default_factory=Path)

    @property
    def clip(self) -> AnyClip | None:
        """The clip in ``training_parameters.gradient_clipping``; None for no clipping."""
        return parse(
            {"training_parameters": {"gradient_clipping": self.training_parameters.gradient_clipping}}
        )

    @property
    def batch_size(self) -> int:
        """``training_parameters.batch_size``, with its default filled in."""
        return self.training_parameters.batch_size or DEFAULTS[self.task]["batch_size"]

    @property
    def sequence_length(self) -> int:
        """``training_parameters.sequence_length``, with its default filled in."""
        return self.training_parameters.sequence_length or DEFAULTS[self.task]["sequence_length"]

    @property
    def data_path(self) -> Path | None:
        """The path of the user's file, relative to the configuration file; ``~`` is the home folder."""
        if self.data.path is None:
            return None
        try:
            return self._folder / Path(self.data.path).expanduser()
        except RuntimeError as error:
            raise ConfigError(
                f"data.path: must begin with a home folder that is known, got {shown(self.data.path)}"
            ) from error

    def says(self, key: str) -> bool:
        """Whether this top-level key was given, in the file or by an option."""
        return key in self._given

    def to_dict(self) -> dict[str, Any]:
        """All keys with their values, defaults included, in types that JSON can hold."""
        plain = self.model_dump()
        given = self.training_parameters.gradient_clipping
        if isinstance(given, Clip | Chain | ByName):
            plain["training_parameters"]["gradient_clipping"] = to_dict(given)
        return plain

    def override(
        self, *, steps: int | None = None, learning_rate: float | None = None, **top: Any
    ) -> "LabConfig":
        """A copy with other ``steps`` (instead of epochs), rate or top-level keys; None keeps a value.

        >>> config = parse_config({"model_type": "GRU", "task": "Language_Modeling"})
        >>> config.override(seed=3, steps=200).training_parameters.evaluate_every
        20
        """
        given = dict(self._given) | {key: value for key, value in top.items() if value is not None}
        if steps is not None:
            training = dict(given.get("training_parameters", {}))
            training.pop("epochs", None)
            given["training_parameters"] = training | {"steps": steps}
        if learning_rate is not None:
            training = dict(given.get("training_parameters", {}))
            given["training_parameters"] = training | {"learning_rate": learning_rate}
        return parse_config(given, folder=self._folder)


def parse_config(data: Mapping[str, Any], *, folder: Path | None = None) -> LabConfig:
    """A mapping as a validated configuration with its defaults filled in.

    Args:
        data: the keys of `LabConfig`; only ``model_type`` and ``task`` are required. ``gradient_clipping``
            may also be at the top level, outside of ``training_parameters``.
        folder: folder that ``data.path`` is relative to; by default the working folder.

    Raises:
        ConfigError: one line per mistake, beginning with the path of its key.

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
    check_model(config.model_type, config.model_parameters)
    check_data(config.task, config.data)
    check_training(config.training_parameters, config.task, config.data, config.devices)
    check_strategy(config.strategy, config.precision)
    _ = config.clip  # refuses a clip that cannot be understood, under the path of its key
    config._given, config._folder = data, folder or Path()
    _ = config.data_path  # refuses the home folder of a user who is not there
    return config


def load_config(path: str | Path) -> LabConfig:
    """A configuration from a JSON or YAML file; ``data.path`` in it is relative to the file's folder.

    Raises:
        ConfigError: the file does not exist or is malformed, or holds something that is not allowed.
    """
    path = Path(path)
    return parse_config(read_mapping(path), folder=path.parent)
