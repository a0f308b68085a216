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
    """``weight * mean((||grad critic(x)|| - target)^2)`` at random points x between real and fake samples.

    The gradient penalty of WGAN-GP: added to the critic's loss it keeps the norm of the critic's gradient
    near ``target``. Each x is ``alpha * real + (1 - alpha) * fake``, with one alpha per sample. The norm is
    taken over all axes of a sample, in float32 or wider; where it is 0, so is its derivative.

    It may be called inside or outside of `torch.autocast`: norms are never computed in half precision. With a
    `torch.amp.GradScaler`, add the penalty to the loss before the loss is scaled. The penalty can be
    differentiated as often as the critic allows. Under `torch.no_grad` it is a constant.

    Args:
        critic: a module or a function of a batch that returns one number per sample: (n,) or (n, 1, ...).
        real, fake: batches of the same shape (n, ...); no gradient flows back into them.
        weight: weight of the penalty, lambda in the paper.
        target: the desired norm.
        one_sided: penalise only norms above the target: ``max(0, norm - target)^2``.
        alpha: interpolation weights in [0, 1], one per sample or one for all; by default drawn uniformly.
        generator: random number generator for alpha.

    Returns:
        The penalty, 0-d.

    Raises:
        ArgumentError: shapes or dtypes do not fit, a number is out of range, the critic's output does not
            depend on its input, or inference mode is on.

    Source: Gulrajani et al. 2017, arXiv:1704.00028.

    >>> import torch
    >>> slope = torch.tensor([3.0, 4.0])
    >>> print(gradient_penalty(lambda x: x @ slope, torch.ones(8, 2), torch.zeros(8, 2)))
    tensor(160.)
    """
    if torch.is_inference_mode_enabled():
        raise ArgumentError(
            "torch.inference_mode allows no gradients, which the penalty needs: use torch.no_grad"
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
