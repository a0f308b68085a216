"""Noticing that the loop or the trainer clips too, so that it can be said once.

While something listens, torch's own functions are wrapped in one that tells the threshold and then does what
it did. `clip_grad_norm_` is wrapped where it looks up its own parts, so that those who imported it by name
are heard as well.
"""

import functools
import math
import weakref
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Protocol

import torch.nn.utils
from torch import Tensor
from torch.nn.utils import clip_grad

__all__ = ["hear", "listen", "stop_listening"]


class Listener(Protocol):
    def clips(self, parameter: Tensor) -> bool:
        """Whether it clips this parameter."""

    def hear(self, function: str, threshold: float) -> None:
        """Somebody else clips its parameters."""


_listeners: "weakref.WeakSet[Any]" = weakref.WeakSet()
_wrapped: list[tuple[ModuleType, str, Callable[..., Any]]] = []

# What does the clipping, and what it is called: since torch 2.6 clip_grad_norm_ looks up its own parts.
_CLIPS_BY_NORM = (
    "_clip_grads_with_norm_" if hasattr(clip_grad, "_clip_grads_with_norm_") else "clip_grad_norm_"
)
_FUNCTIONS = {_CLIPS_BY_NORM: "clip_grad_norm_", "clip_grad_value_": "clip_grad_value_"}


def listen(listener: Listener) -> None:
    """Tell a listener, for as long as it lives, of every clipping of its parameters from outside."""
    _listeners.add(listener)
    if _wrapped:
        return
    for module in (torch.nn.utils, clip_grad):
        for where, name in _FUNCTIONS.items():
            if hasattr(module, where):
                original = getattr(module, where)
                _wrapped.append((module, where, original))
                setattr(module, where, _telling(original, name))


def stop_listening(listener: Listener) -> None:
    """Tell it no more; with the last one torch's functions are as they were."""
    _listeners.discard(listener)
    if _listeners:
        return
    for module, where, original in _wrapped:
        # Whoever put his own in its place since keeps it.
        if getattr(getattr(module, where), "__wrapped__", None) is original:
            setattr(module, where, original)
    _wrapped.clear()


def hear(function: str, parameters: Any, threshold: float) -> None:
    """Pass on that a function is about to clip; an infinite threshold only measures."""
    if not _listeners or threshold == math.inf:
        return
    tensors = [parameters] if isinstance(parameters, Tensor) else parameters
    first = next((p for p in tensors if isinstance(p, Tensor) and p.grad is not None), None)
    for listener in list(_listeners) if first is not None else ():
        if listener.clips(first):
            listener.hear(function, threshold)


def _telling(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def telling(parameters: Tensor | Iterable[Tensor], threshold: float, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(parameters, Tensor):
            parameters = list(parameters)
        hear(f"torch.nn.utils.{name}", parameters, float(threshold))
        return function(parameters, threshold, *args, **kwargs)

    return telling
