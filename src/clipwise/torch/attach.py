"""Clip before every step of an optimizer, from one line, through its own hooks."""

import functools
import sys
from collections.abc import Callable, Mapping
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clipwise.clip import AnyClip
from clipwise.errors import ArgumentError
from clipwise.torch._limit import Facts
from clipwise.torch._parameters import of_optimizer, refuse_unmade
from clipwise.torch.clipper import Clipper, NonFinite

__all__ = ["AttachedClipper", "attach"]


def attach(
    optimizer: Optimizer,
    clip: AnyClip | str | Mapping[str, Any],
    *,
    model: nn.Module | None = None,
    nonfinite: NonFinite = "skip",
    direction: bool = False,
) -> "AttachedClipper":
    """Clip the gradients of an optimizer's parameters before each of its steps, from now on.

    The loop stays as it is::

        clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1.0), model=model)
        for batch in data:
            optimizer.zero_grad()
            loss = model(batch)
            loss.backward()
            optimizer.step()          # clipped; clipper.report says what was done

    It clips what the step is about to use: the sum over micro-batches under accumulation, gradients without
    their scale under `torch.amp.GradScaler` (with fused optimizers too, which step on scaled gradients), and
    after each evaluation of a closure, whose loss it observes by itself. A step that the scaler skips is
    neither clipped nor counted, and losses observed for it count in the mean of the next. Parameters may come
    to the optimizer and leave it.

    Args:
        optimizer: any `torch.optim.Optimizer`; wrappers that carry one (Fabric, Accelerate) as well.
        clip: what to do; a string or a mapping is read by `clipwise.config.parse`.
        model: gives parameters their names, for reports and `by_name`, and tells which are embeddings.
        nonfinite: as for `Clipper`. With ``"skip"`` a step whose gradients hold NaN or Inf does not happen
            at all: parameters and optimizer state stay as they were, and it is counted in
            ``clipper.skipped_steps``. (`torch.optim.LBFGS` goes on with what it had before the bad
            evaluation.) Finding out waits for the device once a step; so does a fused optimizer under a
            scaler, whatever ``nonfinite`` says.
        direction: as for `Clipper`.

    Returns:
        An `AttachedClipper`; also a context manager that detaches at its end.

    Raises:
        ArgumentError: this is no optimizer, or a clip is attached to it already.
        ParameterError: a pattern of `by_name` matches no parameter, or the model is another one.
    """
    return AttachedClipper(optimizer, clip, model=model, nonfinite=nonfinite, direction=direction)


class AttachedClipper(Clipper):
    """A `Clipper` that acts before every step of an optimizer. Made by `attach`."""

    def __init__(
        self,
        optimizer: Optimizer,
        clip: AnyClip | str | Mapping[str, Any],
        *,
        model: nn.Module | None,
        nonfinite: NonFinite,
        direction: bool,
    ) -> None:
        self.optimizer = _unwrapped(optimizer)
        if any(_owner(hook) is not None for hook in self.optimizer._optimizer_step_pre_hooks.values()):
            raise ArgumentError(
                "a clip is attached to this optimizer already: detach it first, or use clipwise.chain"
            )
        self._model = model
        parameters = of_optimizer(self.optimizer, model)
        super().__init__(parameters.items(), clip, nonfinite=nonfinite, direction=direction, model=model)
        self._current = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        self._held_back: list[tuple[Tensor, Tensor]] = []
        self._outermost: FrameType | None = None
        self._handles = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]

    def detach(self) -> None:
        """Stop clipping; the report and the counts stay."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self) -> "AttachedClipper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def state_dict(self) -> dict[str, Any]:
        """As `Clipper.state_dict`, parameters that came to the optimizer since the last step included."""
        self._follow_optimizer()
        return super().state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Clipper.load_state_dict`; add parameter groups to the optimizer before, as they were."""
        self._follow_optimizer()
        super().load_state_dict(state)

    # torch calls the hooks of a step once for each class whose ``step`` runs: an optimizer whose step calls
    # that of its parent calls them twice. Only the outermost call counts. It is known by its frame, since a
    # step that raises never tells that it has ended.

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        caller = sys._getframe(1)
        if _is_running(self._outermost, caller):
            return None
        self._outermost = caller
        self._held_back = []  # of a step that raised; its gradients are of the past
        if kwargs.get("closure") is not None:
            return args, kwargs | {"closure": self._clipping(kwargs["closure"])}
        if len(args) > 1 and callable(args[1]):  # args[0] is the optimizer
            return (args[0], self._clipping(args[1]), *args[2:]), kwargs
        self._clip_for_step()
        return None

    def _clipping(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, with the gradients clipped after each of its backward passes."""

        @functools.wraps(closure)
        def wrapped() -> Any:
            self._give_back()
            loss = closure()
            if not self._losses and isinstance(loss, Tensor | float) and torch.as_tensor(loss).numel() == 1:
                self.observe(loss)
            self._clip_for_step()
            return loss

        return wrapped

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._outermost is sys._getframe(1):
            self._outermost = None
            self._give_back()

    def _clip_for_step(self) -> None:
        self._follow_optimizer()
        # A fused optimizer under a GradScaler steps on scaled gradients and is told the scale, and whether an
        # overflow was found: then it skips the step by itself, as the scaler does for any other optimizer.
        found_inf = getattr(self.optimizer, "found_inf", None)
        if found_inf is not None and bool(found_inf):
            return
        if self._step(getattr(self.optimizer, "grad_scale", None)).skipped:
            # Every optimizer leaves a parameter without a gradient, and its state, as they are.
            self._held_back = [(p, p.grad) for p in self.parameters.values() if p.grad is not None]
            for parameter, _ in self._held_back:
                parameter.grad = None

    def _give_back(self) -> None:
        for parameter, gradient in self._held_back:
            if parameter.grad is None:
                parameter.grad = gradient
        self._held_back = []

    def _follow_optimizer(self) -> None:
        """Take in parameters that came to the optimizer since the last step; let go of those that left."""
        current = [id(p) for group in self.optimizer.param_groups for p in group["params"]]
        if current == self._current:
            return
        known = {id(p): name for name, p in self.parameters.items()}
        now = of_optimizer(self.optimizer, self._model)
        new: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, parameter in now.items():
            if id(parameter) in known:
                kept[known[id(parameter)]] = parameter
            else:
                while name in self.parameters or name in new:
                    name += "+"  # another parameter had this name
                new[name] = parameter
        refuse_unmade(new)
        self._plan.extend(new)
        self.parameters = kept | new
        self._current = current

    def _facts(self) -> Facts:
        facts = super()._facts()
        groups = self.optimizer.param_groups
        return Facts(
            step=facts.step,
            loss=facts.loss,
            learning_rate=_largest([group["lr"] for group in groups if "lr" in group]),
            momentum=max((float(group.get("momentum", 0.0)) for group in groups), default=0.0),
            scale_free=_is_scale_free(self.optimizer),
        )


def _unwrapped(optimizer: Any) -> Optimizer:
    """The `torch.optim.Optimizer` itself, also from inside a wrapper that passes its steps on to it."""
    inner = getattr(optimizer, "optimizer", None)
    if isinstance(inner, Optimizer):
        return _unwrapped(inner)
    if not isinstance(optimizer, Optimizer):
        raise ArgumentError(f"attach takes a torch.optim.Optimizer, got {optimizer!r}")
    return optimizer


def _is_running(frame: FrameType | None, inside: FrameType) -> bool:
    """Whether a call is still under way, further up the stack."""
    above = inside.f_back if frame is not None else None
    while above is not None:
        if above is frame:
            return True
        above = above.f_back
    return False


def _owner(hook: Any) -> AttachedClipper | None:
    owner = getattr(hook, "__self__", None)
    return owner if isinstance(owner, AttachedClipper) else None


def _largest(rates: list[float | Tensor]) -> float | Tensor | None:
    if not rates:
        return None
    if any(isinstance(rate, Tensor) for rate in rates):
        return torch.stack([torch.as_tensor(rate) for rate in rates]).max()
    return max(rates)


def _is_scale_free(optimizer: Optimizer) -> bool:
    """Whether the optimizer divides by the gradient's own size; only the SGD family is known not to."""
    proportional = isinstance(optimizer, torch.optim.SGD | torch.optim.ASGD)
    return not (proportional or "sgd" in type(optimizer).__name__.lower())
