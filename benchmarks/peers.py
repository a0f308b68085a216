"""What people write today, in plain torch: the other side of every row.

`torch.nn.utils.clip_grad_norm_` and `clip_grad_value_` are used as they are. The rest is here.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["AutoClip", "adaptive_clip_", "clip_by_mesh_", "clip_by_norm_", "clip_whole_norm_"]


@torch.no_grad()
def clip_by_norm_(parameters: Sequence[Tensor], threshold: float) -> None:
    """Each gradient by its own norm, with torch's multi-tensor operations and nothing read back."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norms = torch.stack(torch._foreach_norm(gradients))
    coefficients = (threshold / (norms + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, list(coefficients.unbind()))


def _unit_norm(values: Tensor) -> Tensor:
    """The norm of each output unit, shaped to be broadcast over it; a vector or a number is one unit."""
    axes = tuple(range(1, values.ndim)) or None
    norm: Tensor = torch.linalg.vector_norm(values, dim=axes, keepdim=axes is not None)
    return norm


@torch.no_grad()
def adaptive_clip_(parameters: Sequence[Tensor], ratio: float = 0.01, eps: float = 1e-3) -> None:
    """AGC as its paper has it, one parameter after the other, as timm does it.

    ``g <- g * ratio * max(||w||, eps) / ||g||`` for each unit where ``||g|| > ratio * max(||w||, eps)``.
    Source: Brock et al. 2021, arXiv:2102.06171, equation 3.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        largest = _unit_norm(parameter.detach()).clamp_(min=eps).mul_(ratio)
        norm = _unit_norm(gradient)
        clipped = gradient * (largest / norm.clamp(min=1e-6))
        gradient.copy_(torch.where(norm > largest, clipped, gradient))


class AutoClip:
    """AutoClip as it is written today: all norms in a list, ``numpy.percentile`` of the list, torch's clip.

    Its paper's code takes the norms one by one with ``.item()``; here they come from torch's own
    `get_total_norm`, which is faster. Source: Seetharaman et al. 2020, arXiv:2007.14469.

    Args:
        parameters: whose gradients are clipped.
        q: the percentile.
    """

    def __init__(self, parameters: Sequence[Tensor], q: float) -> None:
        self.parameters = list(parameters)
        self.q = q
        self.history: list[float] = []

    def clip_(self) -> Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        self.history.append(nn.utils.get_total_norm(gradients).item())
        threshold = float(np.percentile(self.history, self.q))
        return nn.utils.clip_grad_norm_(self.parameters, threshold)


@torch.no_grad()
def clip_whole_norm_(parameters: Sequence[Tensor], threshold: float) -> Tensor:
    """Of sharded parameters: torch's norm of all gradients, made whole, then torch's multiplication.

    As torchtitan does it, which adds the stages of a pipeline to the norm in between.
    """
    norm: Tensor = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    norm = norm.full_tensor()  # type: ignore[operator]
    nn.utils.clip_grads_with_norm_(parameters, threshold, norm)
    return norm


@torch.no_grad()
def clip_by_mesh_(parameters: Sequence[Tensor], threshold: float) -> Tensor:
    """Of parameters on several meshes, or on none: torch's norm of each, then the norm of those.

    As Accelerate and transformers do it; a plain tensor counts as a replica.
    """
    by_mesh: dict[object, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_mesh.setdefault(getattr(parameter.grad, "device_mesh", None), []).append(parameter)
    norms = []
    for some in by_mesh.values():
        norm = nn.utils.get_total_norm([p.grad for p in some if p.grad is not None])
        norms.append(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    for some in by_mesh.values():
        nn.utils.clip_grads_with_norm_(some, threshold, total)
    return total
