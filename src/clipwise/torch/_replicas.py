"""DistributedDataParallel: thresholds that follow the loss use the mean loss over the ranks.

Under DDP every rank has the same gradients, but its own loss. Thresholds that follow it would silently differ
between ranks, and so would the weights.
"""

import gc
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from clipwise.errors import ArgumentError
from clipwise.torch.engines._arrays import wide


class LossOfReplicas:
    """The mean loss over the ranks of the DistributedDataParallel that contains some parameters.

    It is looked for in the first step, since it may be created after the clipper. Ranks must observe a loss
    in every step or in none, since the mean is a collective; this is checked once.

    Args:
        parameters: those of the clipper.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._parameters = tuple(parameters)
        self._group: Any = None
        self._begun = False

    def __getstate__(self) -> dict[str, Any]:
        return {"_parameters": self._parameters, "_group": None, "_begun": False}  # a group is its process'

    def mean(self, losses: Sequence[Tensor]) -> Sequence[Tensor]:
        """The losses of this rank's step, replaced by their mean over the ranks; unchanged without DDP.

        Raises:
            ArgumentError: some ranks observe a loss and others do not. All ranks raise.
        """
        if not self._begun:
            self._begun, self._group = True, _group_over(self._parameters)
            if self._group is not None:
                self._agree(bool(losses))
        if self._group is None or not losses:
            return losses
        device = self._parameters[0].device
        own = torch.stack([one.to(device, wide(device)) for one in losses]).mean()
        dist.all_reduce(own, group=self._group)
        return [own / dist.get_world_size(self._group)]

    def _agree(self, observes: bool) -> None:
        count = torch.tensor(int(observes), device=self._parameters[0].device)
        dist.all_reduce(count, group=self._group)
        size = dist.get_world_size(self._group)
        if 0 < int(count) < size:
            raise ArgumentError(
                f"{int(count)} of {size} ranks observe a loss: under DistributedDataParallel every rank calls"
                " clipper.observe(loss), and the threshold follows the mean"
            )


def _group_over(parameters: Sequence[Tensor]) -> Any:
    """The process group of the DistributedDataParallel that has one of these parameters."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 and parameters):
        return None
    own = set(map(id, parameters))
    for one in gc.get_objects():
        # Not isinstance: it asks the objects, and some answer by doing things.
        if issubclass(type(one), DistributedDataParallel) and not own.isdisjoint(map(id, one.parameters())):
            return one.process_group
    return None
