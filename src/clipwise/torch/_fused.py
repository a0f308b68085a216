"""Passes a gradient scale, or the decision to skip the step, to a fused optimizer for one step.

This uses the protocol of `torch.amp.GradScaler` (the attributes ``grad_scale`` and ``found_inf``). A
coefficient passed in this way needs no pass of its own over the gradients, and a step is skipped on the
device, without a host-device sync.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks

from clipwise.namespace import Array
from clipwise.torch.engines._arrays import tensor_of

# Known to divide by grad_scale, to write the result back into the gradients, and to heed found_inf in
# parameters and state alike. A subclass may look at the gradients first.
_KNOWN = (Adam, AdamW, SGD, Adagrad)


def is_fused(optimizer: Optimizer) -> bool:
    """Whether it accepts a scale and ``found_inf``, and no other hook sees the gradients before it."""
    return (
        type(optimizer) in _KNOWN
        and all(group.get("fused") for group in optimizer.param_groups)
        and not _starts_momentum(optimizer)
        and len(optimizer._optimizer_step_pre_hooks) == 1
        and all(getattr(hook, "only_reads", False) for hook in _global_optimizer_pre_hooks.values())
    )


def _starts_momentum(optimizer: Optimizer) -> bool:
    """Whether SGD starts a momentum, which it would leave as it lies in memory if the step is left out."""
    if type(optimizer) is not SGD:
        return False
    for group in optimizer.param_groups:
        here = [p for p in group["params"] if p.grad is not None] if group["momentum"] else ()
        if here and not any("momentum_buffer" in optimizer.state.get(p, ()) for p in here):
            return True
    return False


class FusedStep:
    """What was passed to an optimizer for one step, to be removed after it.

    Args:
        optimizer: a fused one; a gradient scaler may have passed something already.
        multiply_by: coefficient for the gradients.
        skip_if: skip the step if this is true, or if the scaler found an overflow.
    """

    def __init__(self, optimizer: Optimizer, *, multiply_by: Array | None, skip_if: Array | None) -> None:
        self._optimizer = optimizer
        self._before: dict[str, Any] = {}
        self._told: dict[str, Tensor] = {}
        if multiply_by is not None:
            # Its inverse: a coefficient of 0 makes it Inf, and all gradients 0.
            scale = 1.0 / tensor_of(multiply_by).to(torch.float32)
            there = getattr(optimizer, "grad_scale", None)
            self._tell("grad_scale", scale if there is None else there.to(scale.device) * scale)
        if skip_if is not None:
            flag = tensor_of(skip_if).to(torch.float32)
            there = getattr(optimizer, "found_inf", None)
            self._tell("found_inf", flag if there is None else torch.maximum(flag, there.to(flag.device)))

    @property
    def left_out(self) -> Tensor | None:
        """Above 0 if the optimizer skips the step, on its device; None: it was not asked to."""
        return self._told.get("found_inf")

    def take_back(self) -> None:
        """Restore the optimizer's attributes."""
        for name, value in self._before.items():
            now = getattr(self._optimizer, name, None)
            if now is not self._told[name]:
                # The step raised, and a scaler has spoken since; its scale times what was left there.
                if name == "grad_scale" and now is not None:
                    setattr(self._optimizer, name, now / self._told[name])
            elif value is not _MISSING:
                setattr(self._optimizer, name, value)
            elif hasattr(self._optimizer, name):
                delattr(self._optimizer, name)

    def _tell(self, name: str, value: Tensor) -> None:
        self._before[name] = getattr(self._optimizer, name, _MISSING)
        self._told[name] = value
        setattr(self._optimizer, name, value)


_MISSING = object()
