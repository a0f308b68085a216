"""A trained model on disk, with what is needed to use it: configuration, shapes, symbols, clip state."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clipwise.errors import ClipwiseError, DataError
from clipwise.lab.config.lab_config import LabConfig, parse_config
from clipwise.lab.data.cache import write_atomically
from clipwise.lab.tasks.models import ModelSpec, SequenceModel, build_model

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """The result of a training.

    Attributes:
        config: its configuration.
        model: the model with its trained weights, on the CPU, in evaluation mode.
        clipper: the state of the clipper, for its ``load_state_dict``.
        clip: the clip in its string form, None for no clipping.
        seed: seed of the run.
        step: number of training steps.
        metrics: its last held-out figures.
        details: symbols, classes or scale of the data, as the task gave them.
    """

    config: LabConfig
    model: SequenceModel
    clipper: dict[str, Any]
    clip: str | None
    seed: int
    step: int
    metrics: dict[str, float]
    details: dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint; an existing file at ``path`` is replaced when the new one is complete."""
    content = {
        "version": VERSION,
        "config": checkpoint.config.to_dict(),
        "spec": asdict(checkpoint.model.spec),
        "model": {name: value.detach().cpu() for name, value in checkpoint.model.state_dict().items()},
        "clipper": checkpoint.clipper,
        "clip": checkpoint.clip,
        "seed": checkpoint.seed,
        "step": checkpoint.step,
        "metrics": checkpoint.metrics,
        "details": checkpoint.details,
    }
    return write_atomically(path, lambda part: torch.save(content, part))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without executing any code in it, and build its model.

    Raises:
        DataError: the file does not exist, or is not a checkpoint of this version.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # torch raises whatever a broken archive makes pickle and zipfile raise
        raise DataError(f"{path}: no checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise DataError(f"{path}: no checkpoint of this version of clipwise")
    try:
        spec = dict(content["spec"])
        model = build_model(ModelSpec(**spec | {"categories": tuple(spec["categories"])}))
        model.load_state_dict(content["model"])
        config = parse_config(content["config"], folder=path.parent)
        rest = {key: content[key] for key in ("clipper", "clip", "seed", "step", "metrics", "details")}
    except (KeyError, TypeError, RuntimeError, ClipwiseError) as error:
        raise DataError(f"{path}: the checkpoint is damaged ({str(error).splitlines()[0]})") from error
    return Checkpoint(config=config, model=model.eval(), **rest)
