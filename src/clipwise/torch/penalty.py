"""The gradient penalty of WGAN-GP for PyTorch."""

from collections.abc import Callable
from typing import Any

import array_api_compat.torch
import torch
from torch import Tensor

from clipwise.errors import ArgumentError
from clipwise.functional import penalty
from clipwise.namespace import Array, Namespace

__all__ = ["gradient_penalty"]


def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    *,
    alpha: Tensor | float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """``weight mean((||grad critic(x)|| - target)^2)`` at random points x between real and generated samples.

    Added to the critic's loss it holds the critic near slope 1, as the Wasserstein distance wants it, where
    weight clipping would only bound it (Gulrajani et al. 2017, arXiv:1704.00028). Each x is
    ``alpha real + (1 - alpha) fake`` with one alpha a sample. Norms are of a sample's whole gradient, over
    all axes but the first, in float32 or wider; where a norm is 0, so is its derivative.

    Call it inside or outside of `torch.autocast`: the critic runs as it would, the norms are never in half
    precision. Norms are of the critic itself, so a `torch.amp.GradScaler` scales the finished loss only.
    It can be differentiated to any order that the critic allows; under `torch.no_grad` it is a plain number.

    Args:
        critic: a module or a function of a batch, one number a sample: (n,) or (n, 1, ...).
        real, fake: batches of one shape (n, ...) and any rank; no gradient flows back into them.
        weight: of the penalty, the paper's lambda.
        target: the norm that is wanted.
        one_sided: whether norms below the target cost nothing: ``max(0, norm - target)^2``.
        alpha: where the points lie, a number in [0, 1] a sample, or one for all; without it drawn uniformly.
        generator: that alpha is drawn with.

    Returns:
        The penalty, 0-d.

    Raises:
        ArgumentError: shapes or dtypes do not fit, a number is out of range, or the critic's output does not
            depend on its input; or this is inference mode.

    >>> import torch
    >>> slope = torch.tensor([3.0, 4.0])
    >>> print(gradient_penalty(lambda x: x @ slope, torch.ones(8, 2), torch.zeros(8, 2)))
    tensor(160.)
    """
    weight, target = penalty.check_numbers(weight, target)
    if torch.is_inference_mode_enabled():
        raise ArgumentError(
            "torch.inference_mode allows no gradient, which the penalty consists of: use torch.no_grad"
        )
    real, fake = _floats("real", real), _floats("fake", fake)
    penalty.check_batches(tuple(real.shape), tuple(fake.shape))
    if real.device != fake.device:
        raise ArgumentError(f"real and fake must be on one device, got {real.device} and {fake.device}")
    create = torch.is_grad_enabled()
    dtype = torch.promote_types(real.dtype, fake.dtype)
    where = _alpha(alpha, real, generator)
    if isinstance(where, Tensor):
        where = where.to(real.device, dtype)
    points = penalty.between(array_api_compat.torch, real.to(dtype), fake.to(dtype), where)
    with torch.enable_grad():
        points.requires_grad_()
        scores = critic(points)
        if not isinstance(scores, Tensor):
            raise ArgumentError(f"the critic must give a tensor, gave {type(scores).__name__}")
        penalty.check_scores(tuple(scores.shape), tuple(points.shape))
        # What the backward pass computes in follows from the forward pass; autocast is not to touch the rest.
        with torch.autocast(points.device.type, enabled=False):
            gradient = None
            if scores.requires_grad:
                (gradient,) = torch.autograd.grad(
                    scores, points, torch.ones_like(scores), create_graph=create, allow_unused=True
                )
            if gradient is None:
                raise ArgumentError("the critic's output does not depend on its input")
            wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
            xp = Namespace(array_api_compat.torch, wide.dtype, wide.device)
            found: Tensor = penalty.penalty_of(xp, wide, Tensor.detach, weight, target, one_sided)
    return found if create else found.detach()


def _floats(name: str, batch: Any) -> Tensor:
    if not isinstance(batch, Tensor) or not batch.is_floating_point():
        kind = batch.dtype if isinstance(batch, Tensor) else type(batch).__name__
        raise ArgumentError(f"{name} must be a tensor of floats, got {kind}")
    return batch.detach()


def _alpha(alpha: Any, real: Tensor, generator: torch.Generator | None) -> Array | float:
    def draw() -> Tensor:
        # Where the generator is: one of the CPU serves a batch on a device, too.
        device = real.device if generator is None else generator.device
        return torch.rand(real.shape[0], generator=generator, device=device)

    return penalty.where_between(alpha, tuple(real.shape), ("generator", generator), draw, _floats)
