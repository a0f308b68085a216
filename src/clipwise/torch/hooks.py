"""Acting just before and after an optimizer's step, through its own hooks."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim import optimizer as torchs
from torch.utils.hooks import RemovableHandle

from clipwise.stack import frames_of


class StepHooks:
    """Calls back around every real step of an optimizer.

    torch calls the hooks of a step once for each class whose ``step`` runs: an optimizer whose step calls
    that of its parent calls them twice. Only the outermost call counts. It is known by the stack, since a
    step that raises never tells that it has ended.

    Args:
        begin: called first.
        again: called before each evaluation of a closure.
        ready: called when the gradients are those that the step is about to use: at once, or after each
            evaluation of a closure, with the loss that it returned.
        end: called after the step.
    """

    def __init__(
        self,
        *,
        begin: Callable[[Optimizer], None],
        again: Callable[[Optimizer], None],
        ready: Callable[[Optimizer, Any], None],
        end: Callable[[Optimizer], None],
    ) -> None:
        self._begin, self._again, self._ready, self._end = begin, again, ready, end

    @property
    def owner(self) -> Any:
        """The object whose methods are called back, None where they are functions."""
        return getattr(self._begin, "__self__", None)

    def register(self, optimizer: Optimizer) -> list[RemovableHandle]:
        """Begin with an optimizer; removing the handles ends it."""
        return [
            optimizer.register_step_pre_hook(self.before_step),
            optimizer.register_step_post_hook(self._after_step),
        ]

    @_disable_dynamo  # traced, what it tells a fused optimizer would be lost without a word
    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if _is_nested(optimizer):
            return None
        self._begin(optimizer)
        if kwargs.get("closure") is not None:
            return args, kwargs | {"closure": self._around(kwargs["closure"], optimizer)}
        if len(args) > 1 and callable(args[1]) and not isinstance(args[1], nn.Module):  # args[0]: itself
            return (args[0], self._around(args[1], optimizer), *args[2:]), kwargs
        self._ready(optimizer, None)
        return None

    def _around(self, closure: Callable[..., Any], optimizer: Optimizer) -> Callable[..., Any]:
        @functools.wraps(closure)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._again(optimizer)
            loss = closure(*args, **kwargs)
            self._ready(optimizer, loss)
            return loss

        return wrapped

    @_disable_dynamo
    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not _is_nested(optimizer):
            self._end(optimizer)


def _is_nested(optimizer: Optimizer) -> bool:
    """Whether the step that calls the hook was itself called by a step of this optimizer."""
    # Of torch's own wrapper of every step.
    steps = frames_of(file=torchs.__file__)
    next(steps, None)  # the step that calls the hook
    return any(frame.f_locals.get("self") is optimizer for frame in steps)
