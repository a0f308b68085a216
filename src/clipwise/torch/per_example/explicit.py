"""Per-example gradients themselves, a few examples at a time: of any module."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from clipwise.torch.engines._arrays import wide
from clipwise.torch.per_example.batch import Batch, LossFunction, check_losses
from clipwise.torch.per_example.rows import row_norms, widened

__all__ = ["Coefficients", "Examples", "Sums", "looped", "norms_of", "sums_of", "vmapped"]

ENTRIES = {"cpu": 1 << 22}
"""Entries of per-example gradients that are there at a time, unless ``micro_batch`` is given."""
LEAST = 4
"""Examples at a time, however many entries they take."""


class Examples(NamedTuple):
    """Some examples.

    Attributes:
        gradients: of each parameter, ``(examples, *shape)``; None: the losses do not depend on it.
        losses: ``(examples,)``.
    """

    gradients: list[Tensor | None]
    losses: Tensor


class Sums(NamedTuple):
    """What a route gives of a batch.

    Attributes:
        losses: of the examples.
        norms: for each order, ``(examples, parameters)``, in the wide float.
        totals: for each parameter the sum of its clipped gradients; None where there is none.
    """

    losses: Tensor
    norms: dict[float, Tensor]
    totals: list[Tensor | None]


Coefficients = Callable[[dict[float, Tensor]], Tensor]
"""From norms by order to the coefficients of examples and parameters."""


def vmapped(
    model: nn.Module,
    parameters: dict[str, Tensor],
    loss_fn: LossFunction,
    batch: Batch,
    scale: Tensor | None,
) -> Examples:
    """The gradients of all examples of a batch at once, by `torch.func`."""

    def loss_of(values: dict[str, Tensor], tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
        one = batch.of([tensor.unsqueeze(0) for tensor in tensors])

        def forward(*args: Any, **kwargs: Any) -> Any:
            return functional_call(model, values, args, kwargs)

        losses = one.losses(forward, loss_fn)
        check_losses(losses, 1)
        loss = losses.squeeze(0)
        return loss if scale is None else loss * scale, loss

    values = {name: parameter.detach() for name, parameter in parameters.items()}
    each = vmap(grad_and_value(loss_of, has_aux=True), in_dims=(None, 0), randomness="different")
    # Of attention torch.func knows the plain kernel; the others would run one example after the other.
    with _uncached_autocast(batch.tensors[0].device), sdpa_kernel(SDPBackend.MATH):
        gradients, (_, losses) = each(values, batch.tensors)
    return Examples([gradients[name] for name in parameters], losses)


def looped(
    model: nn.Module,
    parameters: dict[str, Tensor],
    loss_fn: LossFunction,
    batch: Batch,
    scale: Tensor | None,
) -> Examples:
    """The same, one example after the other: for modules that `torch.func` does not take."""
    rows: list[tuple[Tensor | None, ...]] = []
    losses: list[Tensor] = []
    tensors = list(parameters.values())
    for place in range(batch.size):
        loss = batch.examples(slice(place, place + 1)).losses(model, loss_fn)
        check_losses(loss, 1)
        losses.append(loss.detach())
        root = loss.sum() if scale is None else loss.sum() * scale
        if root.requires_grad:
            rows.append(torch.autograd.grad(root, tensors, allow_unused=True))
        else:
            rows.append((None,) * len(tensors))
    return Examples([_stacked(column) for column in zip(*rows, strict=True)], torch.cat(losses))


def _stacked(column: Sequence[Tensor | None]) -> Tensor | None:
    like = next((one for one in column if one is not None), None)
    if like is None:
        return None
    dense = [torch.zeros_like(like) if one is None else one for one in column]
    return torch.stack([one.to_dense() if one.is_sparse else one for one in dense])


def _uncached_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast as it is, without its cache: that would hold weights of a transform that is over."""
    kind = device.type
    if not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, torch.get_autocast_dtype(kind), cache_enabled=False)


def norms_of(gradients: Sequence[Tensor | None], size: int, p: float, device: torch.device) -> Tensor:
    """The p-norms of per-example gradients in the wide float, ``(examples, parameters)``."""
    dtype = wide(device)
    columns = [
        torch.zeros(size, dtype=dtype, device=device) if one is None or not one.numel() else row_norms(one, p)
        for one in gradients
    ]
    return torch.stack(columns, dim=1)


def sums_of(
    each: Callable[[Batch], Examples],
    parameters: Sequence[Tensor],
    batch: Batch,
    micro_batch: int | None,
    orders: Sequence[float],
    coefficients: Coefficients | None,
    scale: Tensor | None,
    *,
    drops: bool,
) -> Sums:
    """The clipped sums of a batch in micro-batches.

    Args:
        each: of some examples, their gradients, multiplied by ``scale``.
        micro_batch: how many examples at a time; None: as many as take `ENTRIES` entries, at least `LEAST`.
        orders: of the norms that are wanted.
        coefficients: of norms; None: no sums are wanted.
        scale: of a gradient scaler; norms are those without it, totals keep it.
        drops: examples that are not finite count as none.
    """
    entries = max(1, sum(p.numel() for p in parameters))
    device = parameters[0].device
    step = micro_batch or max(LEAST, ENTRIES.get(device.type, 1 << 26) // entries)
    losses: list[Tensor] = []
    found: list[dict[float, Tensor]] = []
    totals: list[Tensor | None] = [None] * len(parameters)
    for start in range(0, batch.size, step):
        some = batch.examples(slice(start, start + step))
        gradients, own = each(some)
        norms = {p: norms_of(gradients, some.size, p, device) for p in orders}
        if scale is not None:
            norms = {p: one / scale for p, one in norms.items()}
        losses.append(own.detach())
        found.append(norms)
        if coefficients is None:
            continue
        factors = coefficients(norms)
        for place, gradient in enumerate(gradients):
            if gradient is None:
                continue
            if drops:  # 0 times NaN is NaN
                bad = factors[:, place] == 0
                gradient = gradient.masked_fill(bad.view(-1, *[1] * (gradient.ndim - 1)), 0)
            rows = widened(gradient.reshape(len(gradient), -1))
            total = (factors[:, place].to(rows.dtype) @ rows).view(gradient.shape[1:])
            before = totals[place]
            totals[place] = total if before is None else before.add_(total)
            gradients[place] = None
    norms = {p: torch.cat([one[p] for one in found]) for p in orders}
    return Sums(torch.cat(losses), norms, totals)
