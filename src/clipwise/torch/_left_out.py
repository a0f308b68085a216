"""Leaving a step of an optimizer out: it does not run at all.

Taking the gradients away is not enough: without them some optimizers write zeros, decay weights, count the
step, divide by their norm. A hook before the step can only change what the step is given; so what torch's
wrapper of the steps of a class calls is exchanged, once a class and for good, for a function that looks
whether it was given an `InPlaceOf`, and otherwise is the step it was.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch._compile import _disable_dynamo
from torch.optim import Optimizer


class StepLeftOut(BaseException):
    """Ends a step after the first evaluation of its closure. No error: nobody may swallow it on the way.

    Args:
        owner: the `InPlaceOf` whose step it is.
        loss: what the closure returned.
    """

    def __init__(self, owner: "InPlaceOf", loss: Any) -> None:
        super().__init__("this step is left out")
        self.owner, self.loss = owner, loss


class InPlaceOf:
    """What a hook hands to a step in the place of the optimizer.

    Args:
        optimizer: whose step it is.
        left_out: the step is not to run; otherwise it runs and may end by `StepLeftOut`.
    """

    def __init__(self, optimizer: Any, *, left_out: bool = False) -> None:
        self.optimizer, self.left_out = optimizer, left_out

    def __getattr__(self, name: str) -> Any:
        """What hooks that come later look at in the arguments of the step."""
        if name == "optimizer":  # a copy that is being made
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    @_disable_dynamo
    def run(self, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The step of the optimizer, or nothing; what it returns."""
        if self.left_out:
            return None
        try:
            return step(self.optimizer, *args, **kwargs)
        except StepLeftOut as ended:
            if ended.owner is not self:
                raise
            return ended.loss


def can_leave_out(optimizer: Optimizer) -> bool:
    """See to it that steps of the optimizer's class may be left out; whether that is so."""
    found = False
    for kind in type(optimizer).__mro__:  # a step may begin with that of a parent
        step = vars(kind).get("step")
        while step is not None and getattr(step, "__code__", None) is not _TORCHS:
            step = getattr(step, "__wrapped__", None)
        if step is not None:
            (cell,) = step.__closure__
            if not hasattr(cell.cell_contents, "may_be_left_out"):
                cell.cell_contents = _that_may_be_left_out(cell.cell_contents)
            found = True
    return found


def _that_may_be_left_out(step: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(step)
    def step_or_not(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(self, InPlaceOf):
            return self.run(step, *args, **kwargs)
        return step(self, *args, **kwargs)

    step_or_not.may_be_left_out = True  # type: ignore[attr-defined]
    return step_or_not


_TORCHS = Optimizer.profile_hook_step(can_leave_out).__code__
"""Of torch's wrapper of every step, which calls the hooks and then what its only cell holds."""
