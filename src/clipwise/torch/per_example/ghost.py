"""The norms of per-example gradients, and their clipped sum, from one forward and one backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from clipwise.torch.engines._arrays import wide
from clipwise.torch.per_example.batch import Batch, LossFunction, check_losses
from clipwise.torch.per_example.explicit import Sums
from clipwise.torch.per_example.recorder import Recorder
from clipwise.torch.per_example.uses import NotFollowed
from clipwise.torch.per_example.verified import Verified

__all__ = ["NotFollowed", "ghost"]


def ghost(
    model: nn.Module,
    parameters: dict[str, Tensor],
    loss_fn: LossFunction,
    batch: Batch,
    coefficients: Callable[[dict[float, Tensor]], Tensor] | None,
    scale: Tensor | None,
    verified: Verified,
    *,
    drops: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Sums:
    """The clipped sums of a batch.

    The backward pass computes no gradients of parameters. For each use of a parameter it gives the gradient
    of the output. Together with the input this gives the norms and, from the coefficients, the sums.

    Args:
        coefficients: function from norms to coefficients; None if no sums are needed.
        scale: scale of a gradient scaler; it is removed from norms, but not from totals.
        verified: what two examples showed.
        drops: whether examples that are not finite are left out.
        tell: called with a message for each parameter whose per-example gradients had to be computed.

    Raises:
        NotFollowed: the model uses a parameter in an unsupported way. Nothing was changed.
    """
    recorder = Recorder(parameters, batch.tensors, batch.size, verified)
    with recorder:
        losses = batch.losses(model, loss_fn)
    check_losses(losses, batch.size)
    if not recorder.uses or not losses.requires_grad:
        raise NotFollowed("the losses depend on no parameter in a way that is known")
    root = losses.sum() if scale is None else losses.sum() * scale
    gradients = torch.autograd.grad(root, [edge for _, edge in recorder.uses], allow_unused=True)
    for (use, _), gradient in zip(recorder.uses, gradients, strict=True):
        if gradient is not None:
            use.receive(gradient)
    del root, gradients
    device, dtype = losses.device, wide(losses.device)
    nothing = torch.zeros(batch.size, dtype=dtype, device=device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        columns = [
            weight.squares(batch.size).to(dtype) if weight.reached else nothing for weight in recorder.weights
        ]
        found = torch.stack(columns, dim=1).sqrt_()
        norms = {2.0: found if scale is None else found / scale}
        for weight in recorder.weights:
            if tell is not None and weight.costly is not None:
                tell(f"{weight.costly}; its per-example gradients are computed a few examples at a time")
        losses = losses.detach()
        if coefficients is None:
            return Sums(losses, norms, [])
        factors = coefficients(norms)
        if drops and bool((bad := ~found.isfinite().all(dim=1)).any()):
            if bool(bad.all()):
                nothings = [torch.zeros_like(w.tensor) if w.reached else None for w in recorder.weights]
                return Sums(losses, norms, nothings)
            # 0 times NaN is NaN, so a finite example takes the place of each bad one, with the factor 0.
            places = torch.arange(batch.size, device=device).masked_fill(bad, int(bad.int().argmin()))
            for use in recorder.every_use():
                if use.reached:
                    use.replace(places)
        totals: list[Tensor | None] = [None] * len(recorder.weights)
        # The last first: a table of words, mostly the largest, comes when all else is forgotten.
        for place, weight in reversed(list(enumerate(recorder.weights))):
            if weight.reached:
                totals[place] = weight.total(factors[:, place])
            weight.finish()
    return Sums(losses, norms, totals)
