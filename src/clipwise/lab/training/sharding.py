"""Models sharded over several devices (FSDP2), and how their weights are gathered."""

import warnings
from typing import Any

import torch
from lightning_fabric.strategies.launchers.multiprocessing import _MultiProcessingLauncher
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import nn

from clipwise.lab.tasks.models import SequenceModel, TransformerCore, build_model

__all__ = ["sharding_strategy", "whole_model"]


class _Sharded(ModelParallelStrategy):
    """Fabric's, in processes that are started with a function, as those of ``"ddp_spawn"`` are."""

    def _configure_launcher(self) -> None:
        environment = self.cluster_environment
        if environment is not None and not environment.creates_processes_externally:
            self._launcher = _MultiProcessingLauncher(self, start_method="spawn")


def sharding_strategy(devices: int) -> ModelParallelStrategy:
    """A strategy in which each device holds a shard of every parameter and works on a part of every batch."""
    return _Sharded(_take_apart, data_parallel_size=devices, tensor_parallel_size=1)


def _take_apart(model: nn.Module, mesh: Any) -> nn.Module:
    """Layers of a Transformer are gathered one at a time; what is left of the model, as a whole."""
    from torch.distributed.fsdp import fully_shard

    assert isinstance(model, SequenceModel)
    # Of outputs that are views: nothing here changes them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)
    data = mesh["data_parallel"]
    if isinstance(model.core, TransformerCore):
        for layer in model.core.encoder.layers:
            fully_shard(layer, mesh=data)
    fully_shard(model, mesh=data)
    return model


def whole_model(model: SequenceModel) -> SequenceModel:
    """The model with all its weights, on the CPU, in the first process; every process must call this.

    In the other processes, and for models that are not sharded, the model itself.
    """
    # Not of its parameters: after an evaluation some of them are still gathered.
    if not any(hasattr(value, "placements") for value in model.state_dict().values()):
        return model
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    with torch.random.fork_rng(devices=[]):
        whole = build_model(model.spec)
    if weights:
        whole.load_state_dict(weights)
    return whole
