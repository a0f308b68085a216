"""Skips a step of an optimizer: it does not run at all.

Removing the gradients is not enough: without gradients some optimizers write zeros, decay weights, count the
step, or divide by their norm. A hook before the step can only change the arguments of the step, which later
hooks may change again. So the function that torch's wrapper calls is replaced, once per class and
permanently, by one that checks whether its optimizer has a `StepGuard`, and otherwise runs the original step.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch._compile import _disable_dynamo
from torch.optim import Optimizer


class StepLeftOut(BaseException):
    """Ends a step after the first evaluation of its closure. A BaseException, which no handler swallows.

    Args:
        guard: of the step.
        loss: what the closure returned.
    """

    def __init__(self, guard: "StepGuard", loss: Any) -> None:
        super().__init__("this step is left out")
        self.guard, self.loss = guard, loss


class StepGuard:
    """A hook's decision about the step that is about to begin.

    Args:
        optimizer: whose step it is.
        left_out: the step does not run; otherwise it runs and may end by `StepLeftOut`.
    """

    def __init__(self, optimizer: Optimizer, *, left_out: bool = False) -> None:
        self.left_out = left_out
        vars(optimizer)[_GUARD] = self

    @_disable_dynamo
    def run(self, step: Callable[..., Any], optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the step of the optimizer, or nothing; returns its result."""
        take_guard(optimizer)
        if self.left_out:
            return None
        try:
            return step(optimizer, *args, **kwargs)
        except StepLeftOut as ended:
            if ended.guard is not self:
                raise
            return ended.loss


def take_guard(optimizer: Optimizer) -> None:
    """Remove the guard: the next step of the optimizer runs normally."""
    vars(optimizer).pop(_GUARD, None)


def can_leave_out(optimizer: Optimizer) -> None:
    """Prepare the optimizer's class so that its steps can be skipped completely."""
    kind: Any = type(optimizer)
    if not _has_hooks_around_it(kind):
        kind.step = Optimizer.profile_hook_step(kind.step)
        kind.step.hooked = True  # as torch says it
    for one in kind.__mro__:  # a step may begin with that of a parent
        wrapper = _torchs(vars(one).get("step"))
        if wrapper is not None:
            (cell,) = wrapper.__closure__
            if not hasattr(cell.cell_contents, "may_be_left_out"):
                cell.cell_contents = _that_may_be_left_out(cell.cell_contents)


def _has_hooks_around_it(kind: Any) -> bool:
    """Whether torch's wrapper is around all that a step does, or around all but what decorates it.

    torch takes a step for wrapped by a mark, which `functools.wraps` of another optimizer's step copies.
    """
    if _is_torchs(kind.step):
        return True
    wrapper = _torchs(kind.step)
    owner = next(one for one in kind.__mro__ if "step" in vars(one))
    return wrapper is not None and (wrapper.__module__, wrapper.__qualname__) == (
        owner.__module__,
        f"{owner.__qualname__}.step",
    )


def _torchs(step: Any) -> Any:
    """torch's wrapper, where that is what a step wraps; or None."""
    while step is not None and not _is_torchs(step):
        step = getattr(step, "__wrapped__", None)
    return step


def _is_torchs(step: Any) -> bool:
    return getattr(step, "__code__", None) is _TORCHS


def _that_may_be_left_out(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def step_or_not(self: Any, *args: Any, **kwargs: Any) -> Any:
        guard = getattr(self, _GUARD, None)
        return step(self, *args, **kwargs) if guard is None else guard.run(step, self, *args, **kwargs)

    step_or_not.may_be_left_out = True  # type: ignore[attr-defined]
    return step_or_not


_GUARD = "_clipwise_guard"
"""Where an optimizer has it, between the hooks and the step."""

_TORCHS = Optimizer.profile_hook_step(can_leave_out).__code__
"""Of torch's wrapper of every step, which calls the hooks and then what its only cell holds."""
