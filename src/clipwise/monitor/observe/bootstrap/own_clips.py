"""What the script's own calls of ``torch.nn.utils.clip_grad_norm_`` found and did."""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils import clip_grad


@dataclass
class OwnClip:
    """One call.

    Attributes:
        parameters: ids of those whose gradients it scaled.
        threshold: what the norm could not exceed.
        norm: before, a tensor or a number.
        order: of that norm.
    """

    parameters: frozenset[int]
    threshold: float
    norm: Any
    order: float
    used: set[int] = field(default_factory=set)


class OwnClips(threading.local):
    """The last calls in a thread, so that a step can tell the norm from before them."""

    def __init__(self) -> None:
        self._calls: list[OwnClip] = []
        self._norms: list[tuple[Any, float]] = []  # the last ones that were measured, with their order
        self.made = 0  # calls
        self.touched: set[int] = set()  # ids of parameters whose gradients they found

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
            if id(optimizer) not in call.used and parameters <= call.parameters:
                call.used.add(id(optimizer))
                return call
        return None

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

    def _note(self, parameters: list[Any], max_norm: Any, norm: Any, order: float) -> None:
        placements = getattr(norm, "placements", ())
        # A norm that is still spread over ranks; an order that makes no norm, such as 0.
        if not all(one.is_replicate() for one in placements) or not order > 0:
            return
        if placements:
            norm = norm.full_tensor()
        self.made += 1
        ids = frozenset(map(id, parameters))
        found = {id(p) for p in parameters if p.grad is not None}
        # Before backward there are no gradients, or zeros; asking a device would wait.
        if not found or (getattr(norm, "is_cpu", True) and float(norm) == 0.0):
            return
        self.touched |= found
        self._calls = [call for call in self._calls if call.parameters != ids][-15:]
        self._calls.append(OwnClip(ids, float(max_norm), norm, order))
