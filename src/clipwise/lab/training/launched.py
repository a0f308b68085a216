"""The processes that ``torchrun`` has started, one per device, and which of them this is."""

import os
from typing import NamedTuple

from clipwise.errors import ConfigError
from clipwise.lab.config.lab_config import LabConfig

__all__ = ["Launched", "launched", "on_all_devices"]


class Launched(NamedTuple):
    """This process among those of a launcher.

    Attributes:
        rank: its number; rank 0 writes all output.
        size: number of processes.
        nodes: number of machines.
    """

    rank: int
    size: int
    nodes: int


def launched() -> Launched | None:
    """What ``torchrun`` has told this process; None if it did not start it, or started no other one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    rank, size, here = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return Launched(rank, size, size // here) if size > 1 else None


def on_all_devices(config: LabConfig) -> LabConfig:
    """A configuration with as many devices as there are processes.

    Raises:
        ConfigError: the configuration has another number of devices.
    """
    here = launched()
    if here is None or config.devices == here.size:
        return config
    if config.says("devices"):
        raise ConfigError(
            f"devices: torchrun started {here.size} processes, one for each device, got {config.devices};"
            " leave it out"
        )
    return config.override(devices=here.size)
