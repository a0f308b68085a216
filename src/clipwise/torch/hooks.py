"""Callbacks just before and after an optimizer's step, through its own hooks."""

import functools
from collections.abc import Callable
from typing import Any

from torch import nn
from torch._compile import _disable_dynamo
from torch.optim import Optimizer
from torch.optim import optimizer as torchs
from torch.utils.hooks import RemovableHandle

from clipwise.stack import frames_of
from clipwise.torch._left_out import StepGuard, StepLeftOut, can_leave_out, take_guard


class StepHooks:
    """Calls functions around every real step of an optimizer.

    torch calls the step hooks once for each class whose ``step`` runs: twice if ``step`` calls the parent's
    ``step``. Only the outermost call counts. It is found on the call stack, since a step that raises never
    reports its end. The step that `torch.distributed.checkpoint` makes of an optimizer without state, with
    gradients of 0 and a learning rate of 0, does not count either.

    Args:
        begin: called first.
        again: called before each evaluation of a closure.
        ready: called when the gradients are those that the step will use: at once, or after each evaluation
            of a closure, with the loss that it returned. It returns True to skip the step.
        halt: called instead of skipping when the step is half done: after a further evaluation, or if the
            step moved the parameters before the first one.
        end: called after the step.
    """

    def __init__(
        self,
        *,
        begin: Callable[[Optimizer], None],
        again: Callable[[Optimizer], None],
        ready: Callable[[Optimizer, Any], bool | None],
        halt: Callable[[Optimizer], None],
        end: Callable[[Optimizer], None],
    ) -> None:
        self._begin, self._again, self._ready, self._halt, self._end = begin, again, ready, halt, end
        self._leaves_out = self._is_none = False

    @property
    def owner(self) -> Any:
        """The object whose methods are called; None if they are functions."""
        return getattr(self._begin, "__self__", None)

    def register(self, optimizer: Optimizer) -> list[RemovableHandle]:
        """Register the hooks with an optimizer; removing the returned handles ends it."""
        can_leave_out(optimizer)
        self._leaves_out = True
        return [
            optimizer.register_step_pre_hook(self.before_step),
            optimizer.register_step_post_hook(self.after_step),
        ]

    @_disable_dynamo  # traced, what it tells a fused optimizer would be lost without a word
    def before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if _is_nested(optimizer):
            return None
        take_guard(optimizer)  # of a step that never began, since a hook raised
        self._is_none = only_makes_state(optimizer)
        if self._is_none:
            return None
        self._begin(optimizer)
        if kwargs.get("closure") is not None:
            return args, kwargs | {"closure": self._around(kwargs["closure"], optimizer)}
        if len(args) > 1 and callable(args[1]) and not isinstance(args[1], nn.Module):  # args[0]: itself
            return (args[0], self._around(args[1], optimizer), *args[2:]), kwargs
        if self._ready(optimizer, None):
            if self._leaves_out:
                StepGuard(optimizer, left_out=True)
            else:
                self._halt(optimizer)
        return None

    def _around(self, closure: Callable[..., Any], optimizer: Optimizer) -> Callable[..., Any]:
        """What is given to the step in place of its closure."""
        guard = StepGuard(optimizer) if self._leaves_out else None
        before: list[int] | None = _versions(optimizer)

        @functools.wraps(closure)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal before
            nothing_done, before = before == _versions(optimizer), None
            self._again(optimizer)
            loss = closure(*args, **kwargs)
            if self._ready(optimizer, loss):
                if guard is not None and nothing_done:
                    raise StepLeftOut(guard, loss)
                self._halt(optimizer)
            return loss

        return wrapped

    @_disable_dynamo
    def after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not _is_nested(optimizer) and not self._is_none:
            self._end(optimizer)


def _is_nested(optimizer: Optimizer) -> bool:
    """Whether the step that calls the hook was itself called by a step of this optimizer."""
    # Of torch's own wrapper of every step.
    steps = frames_of(file=torchs.__file__)
    next(steps, None)  # the step that calls the hook
    return any(frame.f_locals.get("self") is optimizer for frame in steps)


def only_makes_state(optimizer: Optimizer) -> bool:
    """Whether `get_optimizer_state_dict` or the like makes the step, only to create the optimizer's state."""
    makers = () if optimizer.state else frames_of("_init_optim_state")
    return any(frame.f_globals.get("__name__") == _CHECKPOINTS for frame in makers)


_CHECKPOINTS = "torch.distributed.checkpoint.state_dict"


def _versions(optimizer: Optimizer) -> list[int]:
    """A number for each parameter, which every change in place raises."""
    return [p._version for group in optimizer.param_groups for p in group["params"]]
