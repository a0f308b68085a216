"""The ratio of squared gradients to Adam's second moment, per tensor, by which StableAdamW divides."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, AdamW, NAdam, Optimizer, RAdam

from clipwise.errors import ArgumentError
from clipwise.torch._placements import local
from clipwise.torch.engines._arrays import wide

__all__ = ["refuse_other_than_adam", "squares_over_moment"]


def refuse_other_than_adam(optimizers: Sequence[Optimizer]) -> None:
    """ArgumentError if an optimizer keeps no second moment of whole tensors, as torch's Adam does."""
    for one in optimizers:
        if not isinstance(one, Adam | AdamW | NAdam | RAdam):
            raise ArgumentError(
                "stable_adamw (thresholds.moment_ratio) reads the second moment of torch's Adam, AdamW, NAdam"
                f" or RAdam, which {type(one).__name__} has not: use updates=clip_by_block_rms(1.0)"
            )


def squares_over_moment(
    optimizer: Optimizer, group: Mapping[str, Any], parameter: Tensor, before: Tensor
) -> Tensor:
    """The sum of ``g^2 / max(v, eps^2)`` over what is here of a parameter after its step, 0-d; v is unbiased.

    Args:
        before: what the parameter was before the step, for the decay that Adam takes for a gradient.
    """
    state, gradient = optimizer.state.get(parameter, {}), parameter.grad
    at = before.device
    if gradient is None or "exp_avg_sq" not in state:
        return torch.zeros((), dtype=wide(at), device=at)
    own = torch.promote_types(_real(before).dtype, torch.float32)
    g, moment = _real(local(gradient)).to(own), _real(local(state["exp_avg_sq"])).to(own)
    if group["weight_decay"] and not _is_decoupled(optimizer, group):
        g = (-g if group["maximize"] else g).add(_real(before).to(own), alpha=group["weight_decay"])
    unbiased = moment / (1.0 - group["betas"][1] ** torch.as_tensor(state["step"], device=at).to(own))
    ratio = g / unbiased.sqrt().clamp_min(group["eps"])
    found: Tensor = ratio.to(wide(at)).square().sum()
    return found


def _real(tensor: Tensor) -> Tensor:
    """With the two parts of complex entries by themselves, as Adam takes them."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _is_decoupled(optimizer: Optimizer, group: Mapping[str, Any]) -> bool:
    return bool(group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)))
