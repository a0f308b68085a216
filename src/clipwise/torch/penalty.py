"""The gradient penalty of WGAN-GP for PyTorch."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from clipwise.errors import ArgumentError
from clipwise.functional import penalty


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
    if torch.is_inference_mode_enabled():
        raise ArgumentError(
            "torch.inference_mode allows no gradient, which the penalty consists of: use torch.no_grad"
        )

    def draw(real: Tensor) -> Tensor:
        # Where the generator is: one of the CPU serves a batch on a device, too.
        device = real.device if generator is None else generator.device
        return torch.rand(real.shape[0], generator=generator, device=device)

    if isinstance(real, Tensor) and isinstance(fake, Tensor) and real.device != fake.device:
        raise ArgumentError(f"real and fake must be on one device, got {real.device} and {fake.device}")
    source = ("generator", generator)
    found: Tensor = penalty.gradient_penalty(
        critic, real, fake, weight, target, one_sided, alpha=alpha, source=source, draw=draw, as_array=_tensor
    )
    return found


def _tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(type(value))
    return value
