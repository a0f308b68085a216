"""The first call: two examples alone and together, so that a wrong gradient is found before it is used."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from clipwise.errors import ArgumentError
from clipwise.torch.per_example.batch import Batch, LossFunction, check_losses
from clipwise.torch.per_example.explicit import looped, norms_of

__all__ = ["Alone", "alone", "buffers_kept", "differs", "evaluated"]

_EXACT = (torch.float32, torch.float64)
_COUNTS = 1 << 16
"""Entries of a buffer of whole numbers that may be counts; larger ones are masks and quantized weights."""


class Alone(NamedTuple):
    """Two examples of a batch, each by itself in a batch of one, with dropout off.

    Attributes:
        batch: the two.
        norms: the 2-norms of their gradients by parameter, ``(2, parameters)``.
        tolerance: within which a route's norms must agree.
        finite: whether their losses and norms are, so that they tell of a route whether it is right.
    """

    batch: Batch
    norms: Tensor
    tolerance: float
    finite: bool


def alone(
    model: nn.Module, parameters: dict[str, Tensor], loss_fn: LossFunction, batch: Batch
) -> Alone | None:
    """The gradients of two examples by themselves; None where the model draws random numbers.

    They are the first two, or the first two whose losses are finite.

    Raises:
        ArgumentError: the losses are not one an example, or one depends on the other example.
    """
    some = batch.examples(slice(0, 2))
    device = next(iter(parameters.values())).device
    with evaluated(model, device):
        together = some.losses(model, loss_fn)
        check_losses(together, some.size)
        if batch.size > some.size and not bool(together.isfinite().all()):
            some = _finite_first(model, loss_fn, batch)
            together = some.losses(model, loss_fn)
        again = some.losses(model, loss_fn)
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
        if not torch.allclose(together, again, rtol=0, atol=0, equal_nan=True):
            return None
    exact = all(one.dtype in _EXACT for one in (together, *model.parameters()))
    exact = exact and not torch.is_autocast_enabled(device.type)
    tolerance = 1e-3 if exact else 0.1
    losses, together = each.losses.to(together.dtype), together.detach()
    if not torch.allclose(losses, together, rtol=tolerance, atol=tolerance, equal_nan=True):
        raise ArgumentError(
            "the loss of an example depends on the others in its batch: alone it is"
            f" {float(losses[0]):.6g}, in a batch of {some.size} {float(together[0]):.6g}. It must depend on"
            " that example only (no batch statistics, no in-batch negatives, no division by the batch size),"
            " and examples must lie along axis 0"
        )
    norms = norms_of(each.gradients, some.size, 2.0, device)
    return Alone(some, norms, tolerance, bool(together.isfinite().all() and norms.isfinite().all()))


def _finite_first(model: nn.Module, loss_fn: LossFunction, batch: Batch) -> Batch:
    """The first two examples whose losses are finite; with others where there are fewer."""
    with torch.no_grad():
        losses = batch.losses(model, loss_fn)
    check_losses(losses, batch.size)
    return batch.examples((~losses.isfinite()).byte().cpu().argsort(stable=True)[:2])


def differs(found: Tensor, told: Alone) -> int | None:
    """Index of the parameter whose norms differ most from those of single examples; None if all agree."""
    known = told.norms.isfinite()
    whole = torch.linalg.vector_norm(told.norms.masked_fill(~known, 0), dim=1, keepdim=True)
    allowed = told.tolerance * told.norms + 0.1 * told.tolerance * whole
    beyond = ((found - told.norms).abs() - allowed).masked_fill(~known, -1)
    return None if bool((beyond <= 0).all()) else int(beyond.max(dim=0).values.argmax())


@contextmanager
def evaluated(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model in eval mode, with random numbers and buffers as if none were drawn or written.

    Modules whose ``eval()`` does more, such as merging weights, are not asked to do so.
    """
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), buffers_kept(model):
            for module in modes:
                module.training = False
            yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """What is written into the buffers of a model goes into copies of them, for as long as this lasts.

    A buffer that the forward pass replaces by another tensor, such as a table that has grown, stays replaced.
    """
    held = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
        if not buffer.requires_grad and (buffer.is_floating_point() or buffer.numel() <= _COUNTS)
    ]
    copies = {id(buffer): buffer.clone() for _, _, buffer in held}
    try:
        for module, name, buffer in held:
            setattr(module, name, copies[id(buffer)])
        yield
    finally:
        for module, name, buffer in held:
            if getattr(module, name, None) is copies[id(buffer)]:
                setattr(module, name, buffer)
