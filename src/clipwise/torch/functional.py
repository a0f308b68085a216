"""Clip the gradients once, with no state between steps."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from clipwise.clip import AnyClip, remembering
from clipwise.config.arguments import as_clip
from clipwise.errors import StateError
from clipwise.functional.arguments import NonFinite
from clipwise.functional.slots import UnitAxes
from clipwise.report import ClipReport
from clipwise.torch import _first_calls
from clipwise.torch._parameters import Parameters
from clipwise.torch._process_groups import ProcessGroups
from clipwise.torch.clipper import Clipper

__all__ = ["clip_"]


def clip_(
    parameters: Parameters,
    clip: AnyClip | str | Mapping[str, Any],
    *,
    nonfinite: NonFinite = "propagate",
    direction: bool = False,
    unit_axes: UnitAxes | None = None,
    process_groups: ProcessGroups | None = None,
) -> ClipReport:
    """Clip the gradients of some parameters in place, once, and return a report.

    ``g <- g * min(1, threshold / norm(g))`` for each group of entries; see `clipwise.Clip`.

    Args:
        parameters: a module, a tensor, an iterable of tensors, or (name, tensor) pairs. Parameters without a
            gradient are ignored; a tensor that is listed twice counts once.
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`. Its threshold must not
            depend on earlier steps, since nothing is kept between calls; for such thresholds use `attach` or
            `Clipper`.
        nonfinite, direction, unit_axes: as for `Clipper`; ``"skip"`` leaves the gradients unchanged.
        process_groups: as for `Clipper`. Each call compares the parameters of all ranks again.

    Returns:
        The `ClipReport` of this step.

    Raises:
        StateError: the threshold depends on earlier steps. Nothing was changed.
        NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``. Nothing was changed.
        ParameterError: gradients were passed in place of parameters.

    >>> import torch, clipwise
    >>> weight = torch.zeros(2, requires_grad=True)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> report = clipwise.torch.clip_([weight], clipwise.clip_by_global_norm(1.0))
    >>> print(report)
    norm 5 -> 1 (threshold 1, 100% clipped)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """
    clip = as_clip(clip)
    policy = remembering(clip)
    if policy is not None:
        raise StateError(
            f"{policy!r} depends on earlier steps and clip_ keeps none:"
            " use clipwise.torch.attach(optimizer, clip) or clipwise.torch.Clipper(parameters, clip)"
        )
    model = parameters if isinstance(parameters, nn.Module) else None
    clipper = Clipper(
        parameters,
        clip,
        nonfinite=nonfinite,
        direction=direction,
        model=model,
        unit_axes=unit_axes,
        process_groups=process_groups,
    )
    _first_calls.call_of("clipwise.torch.clip_", list(clipper.parameters.values()), clip)
    return clipper._step(None).report
