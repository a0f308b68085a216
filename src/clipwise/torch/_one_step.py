"""One step of a clipper: collect, measure, clip, report, remember."""

import numbers
from collections.abc import Callable, Container
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from clipwise.errors import ArgumentError, ClipwiseError, ParameterError
from clipwise.functional.arguments import NonFinite
from clipwise.functional.clipping import clip_measured, measured
from clipwise.functional.context import StepContext
from clipwise.functional.merging import untouched
from clipwise.namespace import Array, Namespace
from clipwise.report import ClipReport
from clipwise.torch._laid_out import LaidOut
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._parameters import refuse_gradients
from clipwise.torch._sharded import ShardedTensors
from clipwise.torch._sharded_gradients import ShardedGradients
from clipwise.torch._sparse import refuse_sparse
from clipwise.torch._together import measure_together
from clipwise.torch.engines import AnyBatch
from clipwise.torch.engines._arrays import array_on, tensor_of, wide
from clipwise.torch.reports import in_torch


class Outcome(NamedTuple):
    """The result of one step.

    Attributes:
        report: with torch tensors.
        coefficient: a factor that is still to be applied to all gradients; None if there is none.
        skip: whether to skip the step if only the device knows (0-d); None: the report says so.
    """

    report: ClipReport
    coefficient: Array | None = None
    skip: Array | None = None


def as_loss(loss: Any) -> Tensor:
    """A loss that is told, 0-d.

    Detached at once: it must not keep the graph of its step alive. Copied: it is read with the step, or later
    by those who follow, and a sum over micro-batches changes in place.
    """
    if isinstance(loss, Tensor):
        if loss.numel() != 1:
            raise ArgumentError(f"observe takes one loss, got a tensor of shape {tuple(loss.shape)}")
        return loss.detach().reshape(()).clone()
    if not isinstance(loss, numbers.Real):
        raise ArgumentError(f"observe takes a loss, a number or a tensor, got {loss!r}")
    return torch.tensor(float(loss), dtype=torch.float64, device="cpu")


class OneStep(LaidOut):
    """What a clipper does in a step.

    Attributes:
        nonfinite, direction: as for `Clipper`.
        report: of the last step.
        steps: so far.
    """

    nonfinite: NonFinite
    direction: bool
    report: ClipReport | None
    steps: int
    _clipped_steps: Array
    _skipped_steps: Array
    _losses: list[Tensor]
    _followers: list[Callable[..., None]]
    _vetoes: list[Callable[..., bool]]
    _needs_loss: bool
    _has_policies: bool

    @torch.no_grad()
    def _step(
        self,
        scale: Tensor | None,
        *,
        fused: bool = False,
        leave: Tensor | None = None,
        only: Container[int] | None = None,
    ) -> Outcome:
        """`clip_` of gradients that are multiplied by a scale.

        Where ``fused``, what follows can multiply them by a coefficient, and can leave the step out, so that
        nothing waits for the device: both is then left to it. With a ``leave`` above 0, on the device, all is
        left as it is. ``only`` are the ids of the parameters that it is about.
        """
        told = self._losses[-1] if self._followers and self._losses else None
        if self._sharding is None:  # of several ranks that share a model one that knows the loss is enough
            if "loss" in self._sees:
                self._losses = [*self._replicas.mean(self._losses)]
            self._refuse_missing_loss()
        try:
            with np.errstate(all="ignore"):  # norms may be NaN or Inf here
                batch = self._gradients.collect(only)
                outcome = self._nothing() if batch is None else self._clip(batch, scale, fused, leave)
        finally:
            self._losses.clear()
        report = outcome.report
        self.steps += 1
        self.report = report
        for follower in tuple(self._followers):
            follower(self, report, told)
        return outcome

    def _clip(self, batch: AnyBatch, scale: Tensor | None, fused: bool, leave: Tensor | None) -> Outcome:
        plan, layout = self._plan, self._gradients.layout
        error = None
        for place in batch.odd:
            if batch.tensors[place].is_sparse:
                try:
                    refuse_sparse(plan, batch.tensors[place], layout.names[place])
                except ClipwiseError as caught:
                    if self._sharding is None:
                        raise
                    error = caught  # the other ranks wait for this one's numbers first
        weights = self._weights(layout.xp)
        if self._sharding is None:
            measure = MeasuredTensors(batch.tensors, layout, batch, scale)
        else:
            found = self._over_ranks(batch, scale, weights, error)
            if found is None:
                return self._nothing()
            measure, fused = found, False  # what a fused optimizer is told it takes for whole tensors only
        if self._vetoes and self._is_vetoed(measure):
            measure.leave = True
        elif leave is not None:
            measure.leave = array_on(measure.xp, leave) > 0
        measure.defers = fused and not measure.on_cpu
        measure.folds = fused and not self.direction and plan.folds
        report, self._state.value = clip_measured(
            plan,
            measure,
            weights,
            self._state.on(layout.xp),
            self._context(layout.xp),
            self.nonfinite,
            direction=self.direction,
        )
        # Counted before they are tensors: on the CPU adding up two of those takes as long as a small clip.
        self._skipped_steps = self._skipped_steps + report.skipped
        self._clipped_steps = self._clipped_steps + report.clipped
        skip = measure.leave if measure.defers else None
        return Outcome(in_torch(report), measure.folded, skip)

    def _over_ranks(
        self,
        batch: AnyBatch,
        scale: Tensor | None,
        weights: MeasuredTensors | None,
        error: ClipwiseError | None,
    ) -> ShardedTensors | None:
        """The measure of gradients that are spread over ranks; None if no rank has one."""
        gradients = self._gradients
        assert self._sharding is not None
        assert isinstance(gradients, ShardedGradients)
        assert isinstance(weights, ShardedTensors | None)
        layout, places = gradients.layout, gradients.layout.present
        together = measure_together(
            ShardedTensors(batch.tensors, layout, self._sharding, places, batch, scale),
            gradients.here,
            self._plan,
            weights,
            self._mean_loss(layout.xp) if self._vetoes else self._loss(layout.xp),
            direction=self.direction,
            error=gradients.error or error,
            judged=bool(self._vetoes),
        )
        self._losses = [] if together.loss is None else [tensor_of(together.loss)]
        self._refuse_missing_loss()
        return together.measure

    def _refuse_missing_loss(self) -> None:
        if self._needs_loss and not self._losses:
            raise ParameterError(
                "the threshold follows the loss: call clipper.observe(loss) before every step"
            )

    def _is_vetoed(self, measure: MeasuredTensors) -> bool:
        measured(self._plan, measure)
        norm = float(measure.joint(self._plan.norm))
        loss = float(self._losses[-1]) if self._losses else None
        said = [judge(self, norm, loss) for judge in tuple(self._vetoes)]  # each hears of each step
        if self._sharding is None:
            return any(said)
        # What a judge remembers may be another on each rank, though all hear the same.
        return bool(self._sharding.summed(torch.tensor([float(any(said))], device="cpu")) > 0)

    def _context(self, xp: Namespace) -> StepContext:
        """What the thresholds may know of this step."""
        if not self._has_policies:
            return _NOTHING_TOLD
        return StepContext(step=float(self.steps), loss=self._loss(xp))

    def _loss(self, xp: Namespace) -> Array | None:
        return self._mean_loss(xp) if "loss" in self._sees else None

    def _mean_loss(self, xp: Namespace) -> Array | None:
        if not self._losses:
            return None
        device = self._losses[0].device
        losses = [one.to(device, wide(device)) for one in self._losses]
        return array_on(xp, losses[0] if len(losses) == 1 else torch.stack(losses).mean())

    def _nothing(self) -> Outcome:
        """That of a call without any gradient: norm 0, on the parameters' device."""
        refuse_gradients("clip_", list(self.parameters.values()))
        xp = self._namespace()
        return Outcome(in_torch(self._plan.blank(untouched(xp, xp.asarray(0.0)))))


_NOTHING_TOLD = StepContext()
