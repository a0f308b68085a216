"""Measures sharded gradients on all ranks at the same steps."""

from collections.abc import Mapping

from torch import Tensor

from clipwise.monitor.observe.meter import NormMeter
from clipwise.torch.whole_norms import Norms, WholeNorms


class MeterOverRanks(NormMeter):
    """A `NormMeter` that reads the norms of whole gradients, in one collective of all ranks.

    Args:
        parameters: by name, some of them DTensors.

    Raises:
        ArgumentError: a placement is not supported, or the ranks have different parameters. All ranks raise.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__(parameters)
        self._whole = WholeNorms(parameters)

    def present(self) -> set[int]:
        """The ids of the parameters that may have a gradient, the same on every rank."""
        return {id(p) for p in self._parameters if p.requires_grad}

    def _measured(self, order: float) -> Norms | None:
        return self._whole.read(order)
