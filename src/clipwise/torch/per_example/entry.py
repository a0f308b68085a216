"""What users call to have single examples clipped."""

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

    With the gradient ``g_i`` of the loss of example i, ``c_i = min(1, C / ||g_i||)`` and B examples,
    `backward` of what this returns adds ``sum_i c_i g_i`` (``loss="sum"``) or ``1/B sum_i c_i g_i``
    (``loss="mean"``) to ``p.grad``. So no example, mislabelled or broken, moves the gradient by more than
    ``C / B``; clipping the mean makes the whole step shorter, and leaves its direction to that example.

    Args:
        model: any module without BatchNorm in training mode. Parameters that require no gradient are left
            alone.
        clip: by global norm or by tensor, with any threshold that does not follow the loss, or `chain` and
            `by_name` of such; a string or a mapping is read by `clipwise.config.parse`. A threshold that
            learns has one value a step, from the steps before it, and is shown every example's norm; without
            any history nothing is clipped. With `clipwise.thresholds.automatic`,
            ``c_i = size / (||g_i|| + gamma)``.
        loss: whether the clipped gradients are averaged or summed.
        batch_size: what the sum is divided by for ``loss="mean"``; the number of examples of the call
            unless given. For steps of several calls, and for batches of random size.
        route: ``"ghost"`` finds the norms from what goes into and comes back to each layer, and makes no
            per-example gradient of the model; ``"explicit"`` makes them by `torch.func`, a few examples at
            a time; ``"auto"`` takes the first that agrees, on two examples in the first call, with the
            gradients of each alone.
        micro_batch: how many examples at a time ``"explicit"`` takes; by the number of parameters unless
            given.
        nonfinite: examples whose gradient holds NaN or Inf are summed as they are (``"propagate"``), left out
            (``"drop"``), or an error before ``p.grad`` is touched (``"error"``); the last two wait for the
            device.
        noise_multiplier: for DP-SGD, the standard deviation of Gaussian noise over the sensitivity (see
            `PerExample.sensitivity`). It is added once a step, to every parameter. Accounting is not done
            here.
        generator: that the noise is drawn with.

    Raises:
        ArgumentError: the model has a layer that mixes examples, or options do not fit together.
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
