"""Notices in the first calls of a clip that it clips nothing: after the step, or without gradients."""

import math
import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torchs

from clipwise.clip import AnyClip, never_clips
from clipwise.stack import warn

_ASKED = 10
"""Number of calls without effect, each after a step, before the warning."""

_LONGEST = 100
"""Number of steps without a call after which a clip is no longer watched."""

_LOOPS = 8
"""Number of training loops per process in which the stateless functions are watched."""


class FirstCalls:
    """Watches the first calls of one clip, until one of them finds gradients that no step has used yet.

    Until then a hook that runs after the steps of all optimizers notes, for two parameters, which gradient
    was used and its version. There is no host-device sync, so gradients of zeros are recognised on the CPU
    only.

    Args:
        what: the clip as it is named in the warning.
        asks: whether to watch it.
    """

    def __init__(self, what: str, *, asks: bool = True) -> None:
        self.asks = asks
        self._what = what
        self._late = self._empty = 0
        self._steps = 0  # since the last call
        self._any_step = self._moved = False
        self._watched: list[weakref.ref[Tensor]] = []
        self._used: dict[int, tuple[weakref.ref[Tensor], int]] = {}

    def call(self, parameters: Iterable[Tensor]) -> None:
        """Called before the gradients of these parameters are clipped.

        Warns:
            UserWarning: at the last of the calls that are watched, if none of them has clipped anything.
        """
        if torch.compiler.is_compiling():
            return
        listed = list(parameters)
        there = [p for p in listed if p.grad is not None]
        if there and self._is_used(there[0]) and self._is_used(there[-1]):
            self._late += 1
        elif all(map(_is_zero, there)):
            # Of zeros, in a step too, that may be a loss that has no weight yet.
            late = self._moved if there else self._steps > 0
            self._empty += late and (not listed or any(p.requires_grad for p in listed))
        elif self._any_step:  # a scaler may leave the first steps out
            self._end()
            return
        if self._late + self._empty >= _ASKED:
            self._end()
            self._say()
            return
        self._steps, self._moved = 0, False
        self._used.clear()
        self._watched = [weakref.ref(p) for p in (there[:1] + there[-1:])]
        _watch(self)

    def after_step(self, optimizer: Optimizer) -> None:
        """Called after each step of an optimizer."""
        self._any_step, self._steps = True, self._steps + 1
        if self._steps > _LONGEST:
            self.asks, self._watched = False, []
        watched = {id(p): p for ref in self._watched if (p := ref()) is not None}
        for group in optimizer.param_groups if watched else ():
            for one in group["params"]:
                if id(one) in watched and one.grad is not None:
                    self._moved = self._moved or not _is_zero(one)
                    self._used[id(one)] = weakref.ref(one.grad), one.grad._version

    def _is_used(self, parameter: Tensor) -> bool:
        used, version = self._used.get(id(parameter), (None, 0))
        gradient = parameter.grad
        return used is not None and used() is gradient and gradient._version == version  # type: ignore[union-attr]

    def _end(self) -> None:
        self.asks = False
        self._watched, self._used = [], {}
        _watching.discard(self)
        while _hook and not _watching:
            _hook.pop().remove()

    def _say(self) -> None:
        found = (
            "found only gradients that a step had used already, or none"
            if self._late
            else "found a gradient, though optimizers made steps in between"
        )
        each = "each" if self._late else "none"
        warn(
            f"{self._what} clips nothing: {each} of its first {_ASKED} calls {found}. Call it after backward"
            " and before step, with the parameters of the model that is trained",
            past=("torch",),
        )


def _is_zero(parameter: Tensor) -> bool:
    """Whether its gradient is known to be 0 without waiting for a device or for other ranks."""
    gradient = parameter.grad
    plain = type(gradient) is Tensor and gradient.is_cpu and gradient.layout == torch.strided
    # Not `any`, which writes a mask of one byte an entry.
    return plain and not bool(torch.count_nonzero(gradient))  # type: ignore[arg-type]


_watching: "weakref.WeakSet[FirstCalls]" = weakref.WeakSet()
_hook: list[Any] = []
_of_functions: dict[int, FirstCalls] = {}


def call_of(function: str, parameters: list[Tensor], clip: AnyClip | float) -> None:
    """Called before a stateless function clips the gradients of these parameters; inf only measures."""
    if torch.compiler.is_compiling():  # first: a threshold may be a part of the graph then
        return
    if clip == math.inf if isinstance(clip, float) else never_clips(clip):
        return
    key = id(parameters[0]) if parameters else 0
    found = _of_functions.get(key)
    if found is None:
        if len(_of_functions) >= _LOOPS:
            return
        found = _of_functions[key] = FirstCalls(function)
    if found.asks:
        found.call(parameters)


def _watch(calls: FirstCalls) -> None:
    _watching.add(calls)
    if not _hook:
        _hook.append(torchs.register_optimizer_step_post_hook(_after_step))


def _after_step(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    if torch.compiler.is_compiling():
        return
    for calls in list(_watching):
        calls.after_step(optimizer)
        if not calls.asks:  # the hook itself goes with a call: torch is going through all hooks now
            _watching.discard(calls)
