"""Which optimizer a clip is attached to: the outermost whose steps call hooks, or can be made to.

An optimizer around another one may act on gradients and weights beside it (Lookahead, TRAC), so that a step
is only clipped, and only left out, as a whole there. It is passed over where its step is that of the inner
one (Fabric, Accelerate), and where the gradients that count are those of the inner step (SAM).
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.optim import Optimizer

from clipwise.errors import ArgumentError
from clipwise.stack import frames_of
from clipwise.torch.refusals import refuse_engines, refuse_steps_elsewhere

_PLACES = ("optimizer", "base_optimizer", "_base_optimizer", "optim", "_optimizer")
_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
_PASSING_ON = ("accelerate", "lightning", "lightning_fabric", "pytorch_lightning")
_AVERAGING = (
    "torch.distributed.optim.post_localSGD_optimizer"  # with the other ranks, whatever one of them does
)


def unwrapped(optimizer: Any) -> list[Optimizer]:
    """The optimizers to attach to, all of them able to call hooks.

    Raises:
        ArgumentError: one is no optimizer, an engine's, or calls no hooks; one comes twice; there are none.
    """
    several = isinstance(optimizer, Iterable) and not isinstance(optimizer, str | Mapping)
    found: list[Optimizer] = []
    for one in optimizer if several else [optimizer]:
        refuse_engines(one)
        while not _acts_itself(one) and (inner := inner_of(one)) is not None:
            refuse_engines(inner)
            one = inner
        refuse_steps_elsewhere(one)
        _refuse_without_hooks(one)
        if any(one is other for other in found):
            raise ArgumentError("attach got the same optimizer twice")
        found.append(one)
    if not found:
        raise ArgumentError("attach takes a torch.optim.Optimizer, or several of them, got none")
    for one in found:
        for name in _HOOKS:
            hooks = vars(one)[name]
            if not isinstance(hooks, OrderedDict):  # a handle for a hook cannot point to a plain dict
                setattr(one, name, OrderedDict(hooks))
        one._patch_step_function()  # as `zero_grad` does for one whose __init__ did not
    return found


def chain(optimizer: Any) -> Iterator[Any]:
    """An optimizer, the one inside it, and so on."""
    one: Any = optimizer
    while one is not None:
        yield one
        one = inner_of(one)


def inner_of(optimizer: Any) -> Optimizer | None:
    """The optimizer that this one passes steps on to, None where there is none."""
    found = (getattr(optimizer, name, None) for name in _PLACES)
    return next((one for one in found if isinstance(one, Optimizer)), None)


def wrapper_of_caller(optimizer: Optimizer) -> str | None:
    """The name of what steps around this optimizer, does something of its own and has no hooks; or None."""
    for frame in frames_of("step"):
        caller = frame.f_locals.get("self")
        if caller is optimizer or not any(one is optimizer for one in _optimizers_in(caller).values()):
            continue
        if hasattr(caller, "param_groups") and not _passes_on(caller) and not _is_sam(caller):
            return type(caller).__name__
    return None


def _acts_itself(optimizer: Any) -> bool:
    if not isinstance(optimizer, Optimizer) or _passes_on(optimizer) or _is_sam(optimizer):
        return False
    own, inner = vars(optimizer), inner_of(optimizer)
    return all(name in own for name in _HOOKS) and (
        inner is None or own[_HOOKS[0]] is not vars(inner).get(_HOOKS[0])
    )


def _passes_on(optimizer: Any) -> bool:
    module = type(optimizer).__module__
    passing_on = module.partition(".")[0] in _PASSING_ON or module == _AVERAGING
    return passing_on and inner_of(optimizer) is not None


def _is_sam(optimizer: Any) -> bool:
    return inner_of(optimizer) is not None and callable(getattr(optimizer, "second_step", None))


def _optimizers_in(holder: Any) -> dict[str, Optimizer]:
    return {name: one for name, one in getattr(holder, "__dict__", {}).items() if isinstance(one, Optimizer)}


def _refuse_without_hooks(one: Any) -> None:
    name = type(one).__name__
    inside = next(iter(_optimizers_in(one)), None)
    if not isinstance(one, Optimizer):
        if inside is not None and hasattr(one, "step"):
            raise ArgumentError(
                f"{name} is not a torch.optim.Optimizer and calls no hooks: attach to its .{inside}, with"
                " nonfinite='zero', since the wrapper cannot skip a step"
            )
        raise ArgumentError(f"attach takes a torch.optim.Optimizer, or several of them, got {name}")
    if not all(hooks in vars(one) for hooks in _HOOKS):
        way_out = "the optimizer inside it" if inside is None else f"its .{inside}"
        raise ArgumentError(
            f"{name} never calls the hooks of its steps, since its __init__ does not call that of"
            f" torch.optim.Optimizer: attach to {way_out}"
        )
