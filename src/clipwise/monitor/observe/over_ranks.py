"""Measuring gradients that are spread over ranks, on all of them at the same steps."""

from collections.abc import Mapping

from torch import Tensor

from clipwise.monitor.observe.meter import NormMeter
from clipwise.torch.whole_norms import Norms, WholeNorms


class MeterOverRanks(NormMeter):
    """A `NormMeter` that reads the norms of whole gradients, in one collective of all ranks.

    Args:
        parameters: by name, some of them DTensors.

    Raises:
        ArgumentError: a layout that is not taken, or ranks that have other parameters. Every rank says so.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__(parameters)
        self._whole = WholeNorms(parameters)

    def present(self) -> set[int]:
        """The ids of the parameters that may have a gradient, the same on every rank."""
        return {id(p) for p in self._parameters if p.requires_grad}

    def _measured(self, order: float) -> Norms | None:
        return self._whole.read(order)
