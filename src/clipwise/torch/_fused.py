"""What a fused optimizer is told for one step: to divide the gradients by a scale, to leave the step out.

This is the way in which `torch.amp.GradScaler` talks to fused optimizers (the attributes ``grad_scale`` and
``found_inf``). A coefficient that goes this way costs no pass of its own over the gradients, and a step that
is not to happen is left out on the device, without the host waiting to hear of it.
"""

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks

from clipwise.namespace import Array
from clipwise.torch.engines._arrays import tensor_of

__all__ = ["FusedStep", "is_fused"]

# Known to divide by grad_scale, to write the result back into the gradients, and to heed found_inf in
# parameters and state alike. A subclass may look at the gradients first.
_KNOWN = (Adam, AdamW, SGD, Adagrad)


def is_fused(optimizer: Optimizer) -> bool:
    """Whether it takes a scale and heeds ``found_inf``, and nobody else sees the gradients before it."""
    return (
        type(optimizer) in _KNOWN
        and all(group.get("fused") for group in optimizer.param_groups)
        and len(optimizer._optimizer_step_pre_hooks) == 1
        and not _global_optimizer_pre_hooks
    )


class FusedStep:
    """The scale and the word to skip of one step, taken back after it.

    Args:
        optimizer: a fused one; a gradient scaler may have told it something already.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer
        self._before = {name: getattr(optimizer, name, None) for name in ("grad_scale", "found_inf")}
        self._had = {name for name in self._before if hasattr(optimizer, name)}

    def multiply_by(self, coefficient: Array) -> None:
        """Use the gradients times a coefficient."""
        # Its inverse: a coefficient of 0 makes it Inf, and all gradients 0.
        scale = 1.0 / tensor_of(coefficient).to(torch.float32)
        there = self._before["grad_scale"]
        self._set("grad_scale", scale if there is None else there.to(scale.device) * scale)

    def skip_if(self, found: Array) -> None:
        """Leave the step out if this is true, as well as if the scaler found an overflow."""
        flag = tensor_of(found).to(torch.float32)
        there = self._before["found_inf"]
        self._set("found_inf", flag if there is None else torch.maximum(flag, there.to(flag.device)))

    def take_back(self) -> None:
        """Let the optimizer be as it was before."""
        for name, value in self._before.items():
            if name in self._had:
                setattr(self._optimizer, name, value)
            elif hasattr(self._optimizer, name):
                delattr(self._optimizer, name)

    def _set(self, name: str, value: Tensor) -> None:
        setattr(self._optimizer, name, value)
