"""Devices and precision of a run, through Lightning Fabric; only devices that exist are requested."""

import logging
from typing import Any

import torch
from lightning_fabric import Fabric

from clipwise.errors import ConfigError
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.training.launched import launched
from clipwise.lab.training.sharding import sharding_strategy

__all__ = ["chosen_device", "make_fabric", "quiet"]

PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def chosen_device(config: LabConfig) -> str:
    """``"cuda"``, ``"mps"`` or ``"cpu"``; ConfigError if the configured one does not exist here."""
    wanted = _here(config)
    there = {
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
        "cpu": wanted,
    }
    device = config.device
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[device]:
        allowed = ", ".join(repr(name) for name, count in there.items() if count)
        raise ConfigError(f"device: must be available here ({allowed} or 'auto'), got {device!r}")
    if wanted > there[device]:
        raise ConfigError(
            f"devices: must be at most {there[device]}, the {device} devices here, got {wanted}"
        )
    if config.precision == "16" and device != "cuda":
        raise ConfigError(f"precision: '16' needs a CUDA GPU, the device is {device!r}; use 'bf16' or '32'")
    return device


def quiet() -> None:
    """A context in which Fabric does not print a message for each run and process; its warnings are kept."""
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)


def make_fabric(config: LabConfig) -> Fabric:
    """The Fabric of a configuration: one process per device, or those that ``torchrun`` has started."""
    quiet()
    by_others = launched()
    return Fabric(
        accelerator=chosen_device(config),
        devices=_here(config),
        num_nodes=1 if by_others is None else by_others.nodes,
        strategy=_strategy(config, started=by_others is not None),
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
    )


def _here(config: LabConfig) -> int:
    """How many of the devices are those of this machine."""
    by_others = launched()
    return config.devices if by_others is None else config.devices // by_others.nodes


def _strategy(config: LabConfig, *, started: bool) -> Any:
    if config.devices == 1:
        return "auto"
    if config.strategy == "fsdp":
        return sharding_strategy(config.devices)
    return "ddp" if started else "ddp_spawn"
