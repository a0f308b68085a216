"""Refuses optimizers that hold a part of the model only or take no steps: a clip would be silently wrong.

Engines that shard the optimizer state keep an ordinary optimizer inside that sees only its own shard, and the
norm of a shard is not the norm of the gradient. These engines clip themselves; the message names the setting.
"""

from collections.abc import Mapping
from typing import Any

import torch.distributed
from torch import Tensor
from torch.optim import Optimizer

from clipwise.errors import ArgumentError
from clipwise.stack import frames_of

_SETTINGS = {
    "deepspeed": 'DeepSpeed clips by itself: set "gradient_clipping" in its configuration',
    "megatron": "Megatron clips by itself: set --clip-grad, or clip_grad in its OptimizerConfig",
    "colossalai": "ColossalAI clips by itself: set max_norm (clip_grad_norm) of its plugin",
}
_ZERO = "torch.distributed.optim.zero_redundancy_optimizer"


def refuse_engines(optimizer: Any) -> None:
    """ArgumentError if the optimizer belongs to an engine, or holds shards of one."""
    for kind in type(optimizer).__mro__:
        _refuse(kind.__module__, type(optimizer).__name__)
    for group in getattr(optimizer, "param_groups", []):
        for parameter in group["params"]:
            if hasattr(parameter, "ds_id"):  # ZeRO's third stage marks what it has taken apart
                _refuse("deepspeed", type(optimizer).__name__)


def refuse_steps_elsewhere(optimizer: Any) -> None:
    """ArgumentError if the weights are updated inside ``backward`` and not by this optimizer's step."""
    name = type(optimizer).__name__
    if callable(getattr(optimizer, "fused_backward", None)):
        raise ArgumentError(
            f"{name} moves the weights in its fused_backward and takes no steps, so that nothing would be"
            " clipped: use its own clip_grad_norm= or clip_grad_value="
        )
    if getattr(optimizer, "_overlap_with_ddp", False):  # of ZeroRedundancyOptimizer
        raise ArgumentError(
            f"{name} with overlap_with_ddp=True steps inside backward, in the communication hook of"
            " DistributedDataParallel, so that nothing would be clipped: leave overlap_with_ddp out"
        )
    if isinstance(getattr(optimizer, "optimizer_dict", None), Mapping):  # of transformers
        raise ArgumentError(
            f"{name} takes no steps: each parameter has an optimizer of its own, which steps inside backward."
            " Attach a clip for each tensor, such as clip_by_norm, to each of its optimizer_dict.values()"
        )
    for group in getattr(optimizer, "param_groups", []):
        for parameter in group["params"]:
            inside = getattr(parameter, "_in_backward_optimizers", ())
            if inside and not any(one is optimizer for one in inside):
                raise ArgumentError(
                    f"the parameters of this {name} are stepped inside backward by {type(inside[0]).__name__}"
                    " (_apply_optimizer_in_backward), and not by it: attach a clip for each tensor, such as"
                    " clip_by_norm, to each of their _in_backward_optimizers"
                )


def refuse_updates(optimizer: Optimizer) -> None:
    """ArgumentError if the result of a step must not be changed, or an update cannot be measured."""
    names = [kind.__name__ for kind in type(optimizer).__mro__]
    name = names[0]
    for known, why in _KEEPS_POSITIONS.items():
        if any(known in one.lower() for one in names):
            raise ArgumentError(f"updates= does not take {name}: {why}. Clip its gradients")
    if getattr(optimizer, "master_weights", False):
        raise ArgumentError(
            f"updates= does not take {name} with master weights: the next step would begin from those, which"
            " were not clipped. Clip its gradients"
        )
    for place, group in enumerate(optimizer.param_groups):
        rate = group.get("lr")
        if isinstance(rate, bool) or not isinstance(rate, Tensor | float | int):
            raise ArgumentError(
                f"updates= measures steps without the learning rate, and group {place} of {name} has none:"
                f" lr is {rate!r}"
            )


_KEEPS_POSITIONS = {
    "lbfgs": "it takes its curvature from where its own steps led",
    "schedulefree": "its parameters are averages of a sequence that its state holds",
    "lookahead": "it goes back to slow weights that its state holds",
}
"""Parts of the names of optimizers whose state says where the parameters are, and why it matters."""


def refuse_flat_shards(parameters: Mapping[str, Tensor]) -> None:
    """ArgumentError if the parameters are flat parameters of FullyShardedDataParallel."""
    for name, parameter in parameters.items():
        if _is_flat_shard(parameter):
            raise ArgumentError(
                f"{name!r} is one rank's shard of a flat parameter, whose norm is not that of the model: for"
                " FullyShardedDataParallel call model.clip_grad_norm_(max_norm) before the step, or shard"
                " with fully_shard, whose parameters are taken"
            )


def refuse_engine_of_caller(optimizer: Optimizer) -> None:
    """ArgumentError if an engine around the optimizer called this step."""
    for frame in frames_of("step"):
        caller = frame.f_locals.get("self")
        if caller is not None and caller is not optimizer:
            module = type(caller).__module__
            _refuse(module, type(optimizer).__name__)
            if module == _ZERO and getattr(caller, "optim", None) is optimizer:
                raise ArgumentError(
                    f"this {type(optimizer).__name__} holds one rank's shard of a ZeroRedundancyOptimizer:"
                    " attach to the ZeroRedundancyOptimizer itself"
                )


def _is_flat_shard(parameter: Any) -> bool:
    flat = getattr(parameter, "_fsdp_flattened", False)
    return bool(flat and torch.distributed.get_world_size() > 1)


def _refuse(module: str, name: str) -> None:
    setting = _SETTINGS.get(module.partition(".")[0])
    if setting is not None:
        raise ArgumentError(f"{name} holds a part of the gradients only. {setting}")
