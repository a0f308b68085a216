"""What an attached clipper does around each step of its optimizers."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError
from clipwise.stack import warn
from clipwise.torch._follows import FollowsOptimizers
from clipwise.torch._fused import FusedStep, is_fused
from clipwise.torch._joint_step import JointStep
from clipwise.torch._one_step import Outcome
from clipwise.torch._unseen import Unseen
from clipwise.torch._wrappers import wrapper_of_caller
from clipwise.torch.refusals import refuse_engine_of_caller


class AroundSteps(FollowsOptimizers):
    """The functions that the optimizers' hooks call, in their order."""

    _leaves_out: bool
    _unseen: Unseen
    _joint_step: JointStep
    _fused_step: FusedStep | None
    _moves: bool
    _checked: set[int]

    def _begin(self, optimizer: Optimizer) -> None:
        self._restore(optimizer)  # after a step that raised
        self._moves = False
        if id(optimizer) not in self._checked:
            refuse_engine_of_caller(optimizer)
            self._say_what_is_around(optimizer)
            self._checked.add(id(optimizer))
        if torch._C._current_graph_task_id() != -1 and self._plan.needs_all():
            raise ArgumentError(
                f"{spelled(self.clip)} needs all gradients, and this optimizer steps inside backward, while"
                " they are still being computed: use a clip for each tensor, such as clip_by_norm or"
                " adaptive_grad_clip, or step after backward"
            )

        if self.updates is not None:
            self.updates.keep(optimizer)

    def _ready(self, optimizer: Optimizer, loss: Any) -> bool:
        """Clip what the step is about to use; whether it is to be left out, as far as the host knows."""
        if not self._losses and (isinstance(loss, float) or (isinstance(loss, Tensor) and loss.numel() == 1)):
            self.observe(loss)
        self._follow_optimizers()
        happens = self._prepare(optimizer)
        self._moves = self._moves or happens  # with a closure, by any of its evaluations
        return not happens

    def _prepare(self, optimizer: Optimizer) -> bool:
        # A fused optimizer under a GradScaler steps on scaled gradients and is told the scale, and whether an
        # overflow was found: then it skips the step by itself, as the scaler does for any other optimizer.
        found_inf = getattr(optimizer, "found_inf", None)
        if (
            found_inf is not None
            and (found_inf.device.type == "cpu" or self.nonfinite != "skip" or not is_fused(optimizer))
            and found_inf
        ):
            return False  # fused SGD would start its momentum with what is in memory
        if len(self._optimizers) > 1:
            if not self._joint_step.goes_on(optimizer):
                others = [one for one in self.optimizers if one is not optimizer]
                self._joint_step.unscale(optimizer, others)
                self._joint_step.start(others, skipped=bool(self._step(None).report.skipped))
            return not self._joint_step.skipped
        fused = is_fused(optimizer)
        report, coefficient, skip = self._step(getattr(optimizer, "grad_scale", None), fused=fused)
        if coefficient is not None or skip is not None:
            self._fused_step = FusedStep(optimizer, multiply_by=coefficient, skip_if=skip)
            return True
        return not report.skipped

    def _clip(self, *args: Any) -> Outcome:
        self._unseen.end()
        return super()._clip(*args)

    def _restore(self, optimizer: Optimizer) -> None:
        self._joint_step.give_back(optimizer)
        if self._fused_step is not None:
            self._fused_step.take_back()
            self._fused_step = None

    def _end(self, optimizer: Optimizer) -> None:
        left_out = None if self._fused_step is None else self._fused_step.left_out
        self._restore(optimizer)
        if not self._moves:
            if self.updates is not None:
                self.updates.forget()
            return
        again, self._joint_step.bounded = self._joint_step.bounded, len(self._optimizers) > 1
        if self.updates is not None:
            self.updates.clip_after(optimizer, again=again)
        if self.weights is None:
            return
        if len(self._optimizers) == 1:
            self.weights.after(leave=left_out)
        else:
            own = {id(p) for group in optimizer.param_groups for p in group["params"]}
            self.weights.after(own, again=again)

    def _say_what_is_around(self, optimizer: Optimizer) -> None:
        around = wrapper_of_caller(optimizer) if self._leaves_out else None
        if around is not None:
            warn(
                f"{around} steps around this {type(optimizer).__name__}: its own part of a skipped step"
                " runs all the same. Use attach(..., nonfinite='zero'), which skips no step",
                past=("torch",),
            )
