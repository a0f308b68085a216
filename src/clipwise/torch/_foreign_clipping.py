"""Notices that the loop or the trainer clips too, so that the user can be warned once.

While a listener exists, torch's clipping functions are wrapped: the wrapper reports the threshold and calls
the original. `clip_grad_norm_` is wrapped where it looks up its own parts, so that code that imported it by
name is noticed as well.
"""

import functools
import math
import weakref
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Protocol

import torch.compiler
import torch.nn.utils
from torch import Tensor
from torch.nn.utils import clip_grad


class Listener(Protocol):
    def clips(self, parameters: Iterable[Tensor]) -> bool:
        """Whether it clips any of these parameters."""

    def hear(self, function: str, threshold: float) -> None:
        """Somebody else clips its parameters."""


_listeners: "weakref.WeakSet[Any]" = weakref.WeakSet()
_wrapped: list[tuple[ModuleType, str, Callable[..., Any]]] = []  # with what was put there

# What does the clipping, and what it is called: since torch 2.6 clip_grad_norm_ looks up its own parts.
_CLIPS_BY_NORM = (
    "_clip_grads_with_norm_" if hasattr(clip_grad, "_clip_grads_with_norm_") else "clip_grad_norm_"
)
_FUNCTIONS = {
    _CLIPS_BY_NORM: "clip_grad_norm_",
    "clip_grads_with_norm_": "clip_grads_with_norm_",
    "clip_grad_value_": "clip_grad_value_",
}


def listen(listener: Listener) -> None:
    """Report every clipping of a listener's parameters by other code, as long as the listener exists."""
    # In this order: of what is called when it dies, the latest comes first.
    weakref.finalize(listener, _unwrap_unless_needed)
    _listeners.add(listener)
    if _wrapped:
        return
    for module in (torch.nn.utils, clip_grad):
        for where, name in _FUNCTIONS.items():
            if hasattr(module, where):
                telling = _telling(getattr(module, where), name)
                _wrapped.append((module, where, telling))
                setattr(module, where, telling)


def stop_listening(listener: Listener) -> None:
    """End the reports; after the last listener torch's functions are the original ones."""
    _listeners.discard(listener)
    _unwrap_unless_needed()


def _unwrap_unless_needed() -> None:
    if _listeners:
        return
    for module, where, telling in _wrapped:
        # A function that replaced it in the meantime stays.
        if getattr(module, where) is telling:
            setattr(module, where, telling.__wrapped__)
    _wrapped.clear()


def hear(function: str, parameters: Any, threshold: float) -> None:
    """Report that a function is about to clip; an infinite threshold only measures."""
    # A graph holds no warning, and one that is made now may be used when nobody listens.
    if torch.compiler.is_compiling() or not _listeners or threshold == math.inf:
        return
    tensors = [parameters] if isinstance(parameters, Tensor) else parameters
    there = [p for p in tensors if isinstance(p, Tensor) and p.grad is not None]
    for listener in list(_listeners):
        if listener.clips(there):
            listener.hear(function, threshold)


def _telling(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def telling(parameters: Tensor | Iterable[Tensor], *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return telling.__wrapped__(parameters, *args, **kwargs)
        if not isinstance(parameters, Tensor):
            parameters = list(parameters)
        thresholds = [*args[:1], *(kwargs[key] for key in ("max_norm", "clip_value") if key in kwargs)]
        if thresholds:  # if not, torch says what is missing
            hear(f"torch.nn.utils.{name}", parameters, float(thresholds[0]))
        return telling.__wrapped__(parameters, *args, **kwargs)

    telling.tells = True  # type: ignore[attr-defined]
    return telling


def behind(module: ModuleType, name: str) -> Callable[..., Any]:
    """The function with this name, without the wrapper."""
    there = getattr(module, name)
    return there.__wrapped__ if hasattr(there, "tells") else there  # type: ignore[no-any-return]


def put(module: ModuleType, name: str, function: Callable[..., Any]) -> None:
    """Put a function in the place of the wrapped one."""
    there = getattr(module, name)
    if hasattr(there, "tells"):
        there.__wrapped__ = function
    else:
        setattr(module, name, function)
