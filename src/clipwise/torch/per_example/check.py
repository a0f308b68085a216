"""The first call: two examples alone and together, so that a wrong gradient is found before it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipwise.errors import ArgumentError
from clipwise.torch.per_example.batch import Batch, LossFunction, check_losses
from clipwise.torch.per_example.explicit import looped, norms_of

__all__ = ["Alone", "alone", "differs", "evaluated"]


class Alone(NamedTuple):
    """Two examples of a batch, each by itself in a batch of one, with dropout off.

    Attributes:
        batch: the two.
        norms: the 2-norms of their gradients by parameter, ``(2, parameters)``.
        tolerance: within which a route's norms must agree.
    """

    batch: Batch
    norms: Tensor
    tolerance: float


def alone(
    model: nn.Module, parameters: dict[str, Tensor], loss_fn: LossFunction, batch: Batch
) -> Alone | None:
    """The gradients of the first two examples by themselves; None where the model draws random numbers.

    Raises:
        ArgumentError: the losses are not one an example, or one depends on the other example.
    """
    some = batch.examples(slice(0, 2))
    device = next(iter(parameters.values())).device
    with evaluated(model, device):
        together, again = (some.losses(model, loss_fn) for _ in range(2))
        check_losses(together, some.size)
        if not together.requires_grad:
            raise ArgumentError("the losses depend on no parameter of the model that requires a gradient")
        try:
            each = looped(model, parameters, loss_fn, some, None)
        except ArgumentError:
            raise
        except Exception as error:
            raise ArgumentError(
                f"the gradient of a single example in a batch of one cannot be computed: {error}"
            ) from error
        if not torch.equal(together, again):
            return None
    exact = together.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled(device.type)
    tolerance = 1e-3 if exact else 0.1
    losses, together = each.losses.to(together.dtype), together.detach()
    if not torch.allclose(losses, together, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ArgumentError(
            "the loss of an example depends on the others in its batch: alone it is"
            f" {float(losses[0]):.6g}, in a batch of {some.size} {float(together[0]):.6g}. It must depend on"
            " that example only (no batch statistics, no in-batch negatives, no division by the batch size),"
            " and examples must lie along axis 0"
        )
    return Alone(some, norms_of(each.gradients, some.size, 2.0, device), tolerance)


def differs(found: Tensor, told: Alone) -> int | None:
    """Index of the parameter whose norms differ most from those of single examples; None if all agree."""
    whole = torch.linalg.vector_norm(told.norms, dim=1, keepdim=True)
    allowed = told.tolerance * told.norms + 0.1 * told.tolerance * whole
    beyond = (found - told.norms).abs() - allowed
    beyond = beyond.masked_fill(~(told.norms.isfinite() & found.isfinite()), -1)
    return None if bool((beyond <= 0).all()) else int(beyond.max(dim=0).values.argmax())


@contextmanager
def evaluated(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model in eval mode, and random numbers as if none were drawn."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
