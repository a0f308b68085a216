"""The same clips on the weights themselves: WGAN's weight clipping, the max-norm constraint."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from clipwise.clip import AnyClip
from clipwise.functional.slots import UnitAxes
from clipwise.torch._gradients import Weights
from clipwise.torch._parameters import Parameters
from clipwise.torch.clipper import Clipper

__all__ = ["WeightClipper"]


class WeightClipper(Clipper):
    """A `Clipper` of weights: each call of `clip_` bounds the parameters and leaves their gradients alone.

    ``clip_by_value(0.01)`` is WGAN's weight clipping (Arjovsky et al. 2017, arXiv:1701.07875),
    ``Clip(3.0, per="unit")`` the max-norm constraint.

    Args:
        parameters, clip, model, unit_axes: as for `Clipper`.

    >>> import torch, clipwise
    >>> weight = torch.nn.Parameter(torch.tensor([0.5, -0.002]))
    >>> report = WeightClipper([weight], clipwise.clip_by_value(0.01)).clip_()
    >>> weight.data
    tensor([ 0.0100, -0.0020])
    >>> float(report.clip_fraction)
    0.5
    """

    _source = Weights

    def __init__(
        self,
        parameters: Parameters,
        clip: AnyClip | str | Mapping[str, Any],
        *,
        model: nn.Module | None = None,
        unit_axes: UnitAxes | None = None,
    ) -> None:
        super().__init__(parameters, clip, model=model, unit_axes=unit_axes)
