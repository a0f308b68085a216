"""`per_example`, the entry point of per-example clipping."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_example_clip
from clipwise.functional.examples.options import Options, Reduction, WhenNonFinite
from clipwise.torch.per_example.routes import Route
from clipwise.torch.per_example.step import PerExample

__all__ = ["per_example"]


def per_example(
    model: nn.Module,
    clip: AnyClip | str | Mapping[str, Any],
    loss: Reduction = "mean",
    *,
    batch_size: int | None = None,
    route: Route = "auto",
    micro_batch: int | None = None,
    nonfinite: WhenNonFinite = "propagate",
    noise_multiplier: float = 0.0,
    generator: torch.Generator | None = None,
) -> PerExample:
    """Clip the gradient of each example of a batch before they are summed.

    With ``g_i`` the gradient of the loss of example i, ``c_i = min(1, C / ||g_i||)`` and B examples,
    `backward` of the returned object adds ``sum_i c_i g_i`` (``loss="sum"``) or ``1/B sum_i c_i g_i``
    (``loss="mean"``) to ``p.grad``. So no single example, such as one with a wrong label, changes the mean
    gradient by more than ``C / B``. Clipping the mean gradient instead shortens the whole step, but such an
    example still determines its direction.

    Args:
        model: any module without BatchNorm in training mode. Parameters that require no gradient are ignored.
        clip: a clip by global norm or by tensor, with any threshold that does not follow the loss, or `chain`
            and `by_name` of such clips; a string or a mapping is read by `clipwise.config.parse`. A threshold
            that learns has one value per step, computed from the steps before it, and then receives the norm
            of every example; while its history is empty nothing is clipped. With
            `clipwise.thresholds.automatic`, ``c_i = size / (||g_i|| + gamma)``.
        loss: ``"mean"`` or ``"sum"`` of the clipped gradients.
        batch_size: divisor of the sum for ``loss="mean"``; by default the number of examples of the call.
            Needed for steps of several calls, and for batches of random size.
        route: ``"ghost"`` computes norms from the input and the output gradient of each layer, without
            per-example gradients of the model. ``"explicit"`` computes per-example gradients with
            `torch.func`, a few examples at a time. ``"auto"`` uses the first of them whose result agrees, in
            the first call and on two examples, with the gradients of each example alone.
        micro_batch: number of examples at a time for ``"explicit"``; by default chosen from the number of
            parameters.
        nonfinite: what to do about examples whose gradient holds NaN or Inf: ``"propagate"`` sums them as
            they are, ``"drop"`` leaves them out, ``"error"`` raises before ``p.grad`` is changed. The last
            two need a host-device sync.
        noise_multiplier: for DP-SGD: the standard deviation of Gaussian noise, divided by the sensitivity
            (see `PerExample.sensitivity`). Noise is added once per step to every parameter. Privacy
            accounting is not included.
        generator: random number generator for the noise.

    Returns:
        A `PerExample`.

    Raises:
        ArgumentError: the model has a layer that mixes examples, or the options do not fit together.
        ParameterError: no parameter requires a gradient, or one is sharded or complex.

    Sources: Goodfellow 2015, arXiv:1510.01799 (norms from activations); Li et al. 2021, arXiv:2110.05679
    (ghost clipping); Bu et al. 2022, arXiv:2210.00038 (one backward pass); Abadi et al. 2016,
    arXiv:1607.00133 (DP-SGD).

    >>> import torch, clipwise
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> step = clipwise.torch.per_example(model, clipwise.clip_by_global_norm(1.0), loss="sum")
    >>> inputs = torch.tensor([[0.6, 0.8], [30.0, 40.0]])
    >>> losses = step.backward(lambda outputs: outputs.squeeze(1), inputs)
    >>> model.weight.grad  # two unit vectors
    tensor([[1.2000, 1.6000]])
    >>> step.report.largest
    1
    """
    options = Options.checked(
        as_example_clip(clip), loss, batch_size, micro_batch, nonfinite, noise_multiplier
    )
    return PerExample(model, options, route, generator)
