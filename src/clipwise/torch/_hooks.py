"""Acting just before and after an optimizer's step, through its own hooks."""

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim import optimizer as torchs

__all__ = ["StepHooks"]


class StepHooks:
    """Calls back around every real step of an optimizer, until removed.

    torch calls the hooks of a step once for each class whose ``step`` runs: an optimizer whose step calls
    that of its parent calls them twice. Only the outermost call counts. It is known by its frame, since a
    step that raises never tells that it has ended.

    Args:
        optimizer: whose steps.
        begin: called first, and before each evaluation of a closure.
        ready: called when the gradients are those that the step is about to use: at once, or after each
            evaluation of a closure, with the loss that it returned.
        end: called after the step.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        begin: Callable[[Optimizer], None],
        ready: Callable[[Optimizer, Any], None],
        end: Callable[[Optimizer], None],
    ) -> None:
        self.optimizer = optimizer
        self._begin, self._ready, self._end = begin, ready, end
        self._outermost: FrameType | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_outermost": None}  # frames cannot be copied

    def remove(self) -> None:
        """Stop calling back."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @_disable_dynamo  # traced, what it tells a fused optimizer would be lost without a word
    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        caller = _step_frame()
        if _is_running(self._outermost, caller):
            return None
        self._outermost = caller
        self._begin(optimizer)
        if kwargs.get("closure") is not None:
            return args, kwargs | {"closure": self._around(kwargs["closure"])}
        if len(args) > 1 and callable(args[1]):  # args[0] is the optimizer
            return (args[0], self._around(args[1]), *args[2:]), kwargs
        self._ready(optimizer, None)
        return None

    def _around(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(closure)
        def wrapped() -> Any:
            self._begin(self.optimizer)
            loss = closure()
            self._ready(self.optimizer, loss)
            return loss

        return wrapped

    @_disable_dynamo
    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._outermost is _step_frame():
            self._outermost = None
            self._end(optimizer)


def _step_frame() -> FrameType:
    """The frame of the step that calls the hook."""
    frame = sys._getframe(2)
    while frame.f_code.co_filename != torchs.__file__ and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_running(frame: FrameType | None, inside: FrameType) -> bool:
    """Whether a call is still under way, further up the stack."""
    above = inside.f_back if frame is not None else None
    while above is not None:
        if above is frame:
            return True
        above = above.f_back
    return False
