"""What the script's own calls of ``torch.nn.utils.clip_grad_norm_`` found and did."""

import functools
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils import clip_grad

__all__ = ["OwnClip", "OwnClips"]


@dataclass
class OwnClip:
    """One call.

    Attributes:
        parameters: ids of those whose gradients it scaled.
        threshold: what the norm could not exceed.
        norm: before, a tensor or a number.
    """

    parameters: frozenset[int]
    threshold: float
    norm: Any
    used: set[int] = field(default_factory=set)


class OwnClips:
    """The last calls, so that a step can tell the norm from before them."""

    def __init__(self) -> None:
        self._calls: list[OwnClip] = []

    def listen(self) -> None:
        """Wrap the functions; newer versions of torch look up their own parts, older ones have one."""
        names = [n for n in ("_clip_grads_with_norm_", "clip_grads_with_norm_") if hasattr(clip_grad, n)]
        for module in (torch.nn.utils, clip_grad):
            for name in names:
                if hasattr(module, name):
                    setattr(module, name, self._scaling(getattr(module, name)))
            if not names:
                module.clip_grad_norm_ = self._clipping(module.clip_grad_norm_)  # type: ignore[attr-defined]

    def of(self, optimizer: Any, parameters: set[int]) -> OwnClip | None:
        """The call before this step that had all these gradients, once for each optimizer."""
        for call in reversed(self._calls):
            if id(optimizer) not in call.used and parameters <= call.parameters:
                call.used.add(id(optimizer))
                return call
        return None

    def _scaling(self, function: Any) -> Any:
        @functools.wraps(function)
        def scaling(parameters: Any, max_norm: Any, total_norm: Any, *args: Any, **kwargs: Any) -> Any:
            listed = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
            result = function(listed, max_norm, total_norm, *args, **kwargs)
            self._note(listed, max_norm, total_norm)
            return result

        return scaling

    def _clipping(self, function: Any) -> Any:
        @functools.wraps(function)
        def clipping(parameters: Any, max_norm: Any, *args: Any, **kwargs: Any) -> Any:
            listed = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
            result = function(listed, max_norm, *args, **kwargs)
            self._note(listed, max_norm, result)
            return result

        return clipping

    def _note(self, parameters: list[Any], max_norm: Any, norm: Any) -> None:
        if hasattr(norm, "placements"):  # a norm that is still spread over ranks
            return
        ids = frozenset(map(id, parameters))
        self._calls = [call for call in self._calls if call.parameters != ids][-15:]
        self._calls.append(OwnClip(ids, float(max_norm), norm))
