"""What the script's own calls of torch's clip functions found and did."""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils import clip_grad

from .losses import Losses


@dataclass
class OwnClip:
    """One call of ``clip_grad_norm_``.

    Attributes:
        parameters: ids of those whose gradients it scaled.
        threshold: what the norm could not exceed.
        norm: before, a tensor or a number.
        order: of that norm.
        passes: backward passes before it.
    """

    parameters: frozenset[int]
    threshold: float
    norm: Any
    order: float
    passes: int
    used: set[int] = field(default_factory=set)


class OwnClips(threading.local):
    """The last calls in a thread, so that a step can tell the norm from before them.

    A call acts on a step if it found gradients of it after a backward pass that the optimizer's step before
    has not used: not before backward, not after the step. Where no backward pass is seen, any counts.

    Args:
        losses: counts the backward passes.

    Attributes:
        made: how many calls there were.
        acts: whether any has acted on a step.
    """

    def __init__(self, losses: Losses) -> None:
        self._losses = losses
        self._calls: list[OwnClip] = []
        self._norms: list[tuple[Any, float]] = []  # the last ones that were measured, with their order
        self._found: list[tuple[frozenset[int], int]] = []  # whose gradients, after how many passes
        self._used: dict[int, int] = {}  # by optimizer, the passes before its last step
        self.made = 0
        self.acts = False

    def listen(self) -> None:
        """Wrap the functions; newer versions of torch look up their own parts, older ones have one."""
        parts = {
            "_get_total_norm": self._measuring,
            "get_total_norm": self._measuring,
            "_clip_grads_with_norm_": self._scaling,
            "clip_grads_with_norm_": self._scaling,
        }
        parted = hasattr(clip_grad, "_clip_grads_with_norm_") or hasattr(clip_grad, "clip_grads_with_norm_")
        for module in (torch.nn.utils, clip_grad):
            for name, wrapped in parts.items():
                if hasattr(module, name):
                    setattr(module, name, wrapped(getattr(module, name)))
            if not parted:
                module.clip_grad_norm_ = self._clipping(module.clip_grad_norm_)  # type: ignore[attr-defined]
            module.clip_grad_value_ = self._by_value(module.clip_grad_value_)  # type: ignore[attr-defined]

    def __bool__(self) -> bool:
        """Whether there was any."""
        return bool(self._calls)

    def of(self, optimizer: Any, present: Callable[[], set[int]]) -> OwnClip | None:
        """The call before this step that had all gradients, once for each optimizer.

        Args:
            optimizer: that is about to step.
            present: gives the ids of its parameters that have one.
        """
        parameters = present()
        for call in reversed(self._calls):
            fresh = id(optimizer) not in call.used and self._is_fresh(call.passes, optimizer)
            if fresh and parameters <= call.parameters:
                call.used.add(id(optimizer))
                return call
        return None

    def after_step(self, optimizer: Any) -> None:
        """An optimizer has made a step."""
        if self._found and not self.acts:
            own = {id(p) for group in optimizer.param_groups for p in group["params"]}
            self.acts = any(self._is_fresh(passes, optimizer) and ids & own for ids, passes in self._found)
        self._used[id(optimizer)] = self._losses.passes

    def _is_fresh(self, passes: int, optimizer: Any) -> bool:
        """Whether what came from so many backward passes was not used by the optimizer yet."""
        return passes > self._used.get(id(optimizer), 0) or not self._losses.passes

    def _measuring(self, function: Any) -> Any:
        @functools.wraps(function)
        def measuring(tensors: Any, norm_type: Any = 2.0, *args: Any, **kwargs: Any) -> Any:
            norm = function(tensors, norm_type, *args, **kwargs)
            self._norms = [*self._norms[-15:], (norm, float(norm_type))]
            return norm

        return measuring

    def _scaling(self, function: Any) -> Any:
        @functools.wraps(function)
        def scaling(parameters: Any, max_norm: Any, total_norm: Any, *args: Any, **kwargs: Any) -> Any:
            listed = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
            result = function(listed, max_norm, total_norm, *args, **kwargs)
            order = next((order for norm, order in reversed(self._norms) if norm is total_norm), 2.0)
            self._note(listed, max_norm, total_norm, order)
            return result

        return scaling

    def _clipping(self, function: Any) -> Any:
        @functools.wraps(function)
        def clipping(parameters: Any, max_norm: Any, norm_type: Any = 2.0, *args: Any, **kwargs: Any) -> Any:
            listed = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
            result = function(listed, max_norm, norm_type, *args, **kwargs)
            self._note(listed, max_norm, result, float(norm_type))
            return result

        return clipping

    def _by_value(self, function: Any) -> Any:
        @functools.wraps(function)
        def clipping(parameters: Any, *args: Any, **kwargs: Any) -> Any:
            listed = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
            result = function(listed, *args, **kwargs)
            self._count(listed)
            return result

        return clipping

    def _note(self, parameters: list[Any], max_norm: Any, norm: Any, order: float) -> None:
        placements = getattr(norm, "placements", ())
        # A norm that is still spread over ranks; an order that makes no norm, such as 0.
        if not all(one.is_replicate() for one in placements) or not order > 0:
            return
        if placements:
            norm = norm.full_tensor()
        # Before backward there are no gradients, or zeros; asking a device would wait.
        if self._count(parameters) and not (getattr(norm, "is_cpu", True) and float(norm) == 0.0):
            ids, passes = frozenset(map(id, parameters)), self._losses.passes
            self._calls = [call for call in self._calls if call.parameters != ids][-15:]
            self._calls.append(OwnClip(ids, float(max_norm), norm, order, passes))

    def _count(self, parameters: list[Any]) -> bool:
        """Whether a call finds gradients."""
        self.made += 1
        found = frozenset(id(p) for p in parameters if p.grad is not None)
        if found and not self.acts:
            self._found = [*self._found[-15:], (found, self._losses.passes)]
        return bool(found)
