"""A clip for one set of parameters, with its state, its counts and its last report."""

import copy
import numbers
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from clipwise.clip import AnyClip, Norm
from clipwise.config.arguments import as_clip
from clipwise.errors import ArgumentError, ClipwiseError, ParameterError, StateError
from clipwise.functional.arguments import NonFinite, as_nonfinite
from clipwise.functional.clipping import clip_measured, measured
from clipwise.functional.context import StepContext
from clipwise.functional.layout import Layout
from clipwise.functional.merging import untouched
from clipwise.functional.names import refuse_unmatched
from clipwise.functional.plan import make_plan
from clipwise.functional.slots import Slot, UnitAxes
from clipwise.namespace import Array, Namespace
from clipwise.report import ClipReport
from clipwise.torch._gradients import Gradients
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._parameters import Parameters, named, refuse_gradients, refuse_unmade
from clipwise.torch._process_groups import ProcessGroups
from clipwise.torch._replicas import LossOfReplicas
from clipwise.torch._sharded import ShardedTensors
from clipwise.torch._sharded_gradients import ShardedGradients
from clipwise.torch._sharding import Sharding, sharding_of
from clipwise.torch._slots import layout_of, slots_of
from clipwise.torch._sparse import refuse_complex_ranges, refuse_sparse
from clipwise.torch._state import PolicyState
from clipwise.torch._together import measure_together, refuse_on_shards
from clipwise.torch.engines import AnyBatch, refuse_unknown_engine
from clipwise.torch.engines._arrays import array_on, namespace_on, tensor_of, wide
from clipwise.torch.refusals import refuse_flat_shards
from clipwise.torch.reports import in_torch

__all__ = ["Clipper", "Follower", "Veto"]

Follower: TypeAlias = Callable[["Clipper", ClipReport, Tensor | None], None]
Veto: TypeAlias = Callable[["Clipper", float, float | None], bool]


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


class Clipper:
    """Clips the gradients of some parameters each time `clip_` is called, and keeps the state between calls.

    For a plain training loop `clipwise.torch.attach` is simpler. Use this class if there is no optimizer to
    attach to, or to choose the moment of clipping::

        clipper = Clipper(model.named_parameters(), clipwise.autoclip(10))
        ...
        loss.backward()
        report = clipper.clip_()
        if not report.skipped:
            optimizer.step()

    Args:
        parameters: a module, tensors, or (name, tensor) pairs; a tensor that is listed twice counts once.
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`.
        nonfinite: what to do about gradients that hold NaN or Inf. ``"skip"``: leave the gradients unchanged
            and report ``skipped``. ``"zero"``: replace such entries by 0 and clip the rest. ``"error"``:
            raise before anything is changed. ``"propagate"``: nothing. All but the last need one host-device
            sync per step.
        direction: report the cosine between the gradients before and after clipping even if this takes a copy
            of the gradients.
        model: tells which weights are embeddings, for `clipwise.auto`, and which belong to transposed
            convolutions, for ``per="unit"``.
        unit_axes: for ``per="unit"``: maps shell patterns of names to the axes along which output units lie,
            where the default is wrong: an axis, several, or None if the whole weight is one unit. The first
            match wins. The default is axis 0 of a weight (axis 1 of a transposed convolution of ``model``); a
            vector is one unit.
        process_groups: maps shell patterns of names to process groups, for parameters that differ between the
            ranks of a group (experts or pipeline stages) and of which a rank may have none. A `DeviceMesh`
            means the group of its ranks; None means the same parameter on all ranks that have it, such as
            tied weights; the name of another parameter means tied to that one. The first match wins. All
            ranks of the run must give the same patterns.

    Attributes:
        report: the `ClipReport` of the last call; None before the first.
        steps: number of calls.

    Raises:
        ArgumentError: the clip or ``nonfinite`` is not valid, or a weight does not have a given axis.
        ParameterError: a pattern of `by_name`, ``unit_axes`` or ``process_groups`` matches nothing.

    >>> import torch, clipwise
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> clipper = Clipper([weight], clipwise.clip_by_global_norm(1.0))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> print(clipper.clip_())
    norm 5 -> 1 (threshold 1, 100% clipped)
    >>> weight.grad
    tensor([0.6000, 0.8000])
    """

    _source: type[Gradients] = Gradients
    _spread_source: type[ShardedGradients] = ShardedGradients
    _weight_layout: Layout | None
    _sharding: Sharding | None
    _of_updates = False

    def __init__(
        self,
        parameters: Parameters,
        clip: AnyClip | str | Mapping[str, Any],
        *,
        nonfinite: NonFinite = "propagate",
        direction: bool = False,
        model: nn.Module | None = None,
        unit_axes: UnitAxes | None = None,
        process_groups: ProcessGroups | None = None,
    ) -> None:
        clip, nonfinite = as_clip(clip, of_updates=self._of_updates), as_nonfinite(nonfinite)
        if model is None and isinstance(parameters, nn.Module):
            model = parameters
        if not isinstance(model, nn.Module | None):
            raise ArgumentError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        refuse_unknown_engine()
        self.clip = clip
        self.nonfinite = nonfinite
        self.direction = direction
        self.parameters = named(parameters)
        refuse_unmade(self.parameters)
        refuse_flat_shards(self.parameters)
        self.report: ClipReport | None = None
        self.steps = 0
        self._clipped_steps: Array = 0
        self._skipped_steps: Array = 0
        self._losses: list[Tensor] = []
        self._followers: list[Follower] = []
        self._vetoes: list[Veto] = []
        self._unit_axes = unit_axes
        self._process_groups = process_groups
        self._lay_out(slots_of(self.parameters, model, unit_axes, later=bool(process_groups)))
        if process_groups:  # a rank may have nothing that matches
            refuse_unmatched(unit_axes or {}, [slot.known_as for slot in self._slots], "unit_axes")
        self._state = PolicyState(self._plan, self._namespace())
        self._needs_loss = "loss" in self._plan.needs()
        self._sees = self._plan.sees()
        self._has_policies = bool(self._sees) or any(one.thresholds.policy for one in self._plan.stages())

    def __getstate__(self) -> dict[str, Any]:
        """Those who listen to one do not know its copy, and a shallow copy remembers by itself, too."""
        return vars(self) | {
            "_followers": [],
            "_vetoes": [],
            "_losses": list(self._losses),
            "_state": copy.copy(self._state),
            "_gradients": copy.copy(self._gradients),
            "_process_groups": None,  # they belong to their process, and a copy follows no optimizer
        }

    @property
    def clipped(self) -> dict[str, Tensor]:
        """The parameters that enter the norm, by name: all except those whose optimizer normalises them."""
        left = {slot.name for slot in self._own_slots if slot.normalised}
        return {name: p for name, p in self.parameters.items() if name not in left}

    @property
    def order(self) -> Norm:
        """The norm of the report's joint norm: 2.0, another order, or ``"rms"``."""
        return self._plan.norm

    @property
    def clipped_steps(self) -> int:
        """Number of clipped steps; reading it needs a host-device sync."""
        return int(self._clipped_steps)

    @property
    def skipped_steps(self) -> int:
        """Number of skipped steps; reading it may need a host-device sync."""
        return int(self._skipped_steps)

    def observe(self, loss: Tensor | float) -> None:
        """Pass the loss of the coming step to thresholds that follow the loss.

        Call it before the step, once per micro-batch; the mean of several losses counts. Under
        DistributedDataParallel every rank calls it, and thresholds follow the mean over the ranks.
        """
        if isinstance(loss, Tensor) and loss.numel() != 1:
            raise ArgumentError(f"observe takes one loss, got a tensor of shape {tuple(loss.shape)}")
        if not isinstance(loss, Tensor | numbers.Real):
            raise ArgumentError(f"observe takes a loss, a number or a tensor, got {loss!r}")
        # Detached at once: an observed loss must not keep the graph of its step alive. Copied: it is read
        # with the step, or later by those who follow, and a sum over micro-batches changes in place.
        self._losses.append(
            loss.detach().reshape(()).clone()
            if isinstance(loss, Tensor)
            else torch.tensor(float(loss), dtype=torch.float64, device="cpu")
        )

    @property
    def followers(self) -> tuple["Follower", ...]:
        """The functions that are called after each step, in order."""
        return tuple(self._followers)

    def follow(self, follower: "Follower") -> Callable[[], None]:
        """Register a function that is called after each step.

        It receives this clipper, the report, and the last observed loss or None. It is called in the training
        thread, so it should avoid host-device syncs.

        Returns:
            A function that unregisters it.
        """
        self._followers.append(follower)
        return lambda: self._followers.remove(follower) if follower in self._followers else None

    def veto(self, judge: "Veto") -> Callable[[], None]:
        """Register a function that decides before each step whether to skip it.

        It receives this clipper, the norm of the gradients, and the last observed loss or None. If it returns
        True, the step is reported as ``skipped``, the gradients stay unchanged, and `attach` skips the
        optimizer's step. This needs one host-device sync per step.

        For sharded parameters (DTensor) every rank must register one. The step is skipped on all ranks if any
        of them says so, and the loss is the mean of the losses that the ranks observed. If only some ranks
        have one, the others raise `ArgumentError`.

        Returns:
            A function that unregisters it.
        """
        self._vetoes.append(judge)
        return lambda: self._vetoes.remove(judge) if judge in self._vetoes else None

    @property
    def decides_together(self) -> bool:
        """Whether all processes of the training take part in each decision: they hold shards of it."""
        return self._sharding is not None and (
            len(self._sharding.cover.ranks) == torch.distributed.get_world_size()
        )

    def clip_(self) -> ClipReport:
        """Clip the current gradients in place and return the report.

        Raises:
            NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``. Nothing was changed.
            ParameterError: the threshold follows the loss and `observe` was not called; or gradients were
                passed in place of parameters.
        """
        return self._step(None).report

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

    def _weights(self, xp: Namespace) -> MeasuredTensors | None:
        """The parameters, for thresholds that look at them."""
        if "weight_norm" not in self._sees:
            return None
        parameters = list(self.parameters.values())
        sharding, gradients = self._sharding, self._gradients
        if self._weight_layout is None or self._weight_layout.xp is not xp:
            whole = Layout(self._slots, xp)
            self._weight_layout = whole if sharding else layout_of(parameters, self._slots, xp)
        if sharding is not None:
            assert isinstance(gradients, ShardedGradients)
            held = gradients.weights()
            return ShardedTensors(held, self._weight_layout, sharding, range(len(held)))
        return MeasuredTensors(parameters, self._weight_layout)

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

    def _namespace(self) -> Namespace:
        return namespace_on(next((p.device for p in self.parameters.values()), torch.device("cpu")))

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: counts and the histories of the thresholds.

        It contains tensors, numbers, lists and dicts only, so ``torch.load(..., weights_only=True)`` can read
        it.
        """
        return {
            "version": 1,
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "clipped_steps": self.clipped_steps,
            "thresholds": self._state.dump(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, as if the run had never been interrupted.

        The arguments of a policy may have changed, such as its percentile.

        Raises:
            StateError: the state belongs to another kind of clip or to other parameters. Nothing is changed.
        """
        counts = ("steps", "skipped_steps", "clipped_steps")
        if not isinstance(state, Mapping) or not {"version", "thresholds", *counts} <= state.keys():
            raise StateError("this is not the state of a Clipper")
        if state["version"] != 1:
            raise StateError(f"the state has version {state['version']!r}; this clipwise reads version 1")
        loaded = self._state.read(state["thresholds"])
        for name in counts:
            if isinstance(state[name], bool) or not isinstance(state[name], int):
                raise StateError(f"{name} must be a whole number, got {state[name]!r}")
        steps, skipped, clipped = (state[name] for name in counts)
        self._state.value = loaded
        self.steps, self._skipped_steps, self._clipped_steps = steps, skipped, clipped

    def _follow(self, kept: Mapping[str, Tensor], new: Mapping[str, Tensor], model: nn.Module | None) -> None:
        """Go on with these parameters: some of the old ones, and new ones, perhaps of a model."""
        known = {slot.name: slot for slot in self._own_slots}
        later = slots_of(new, model, self._unit_axes, later=True)
        self.parameters = {**kept, **new}
        self._lay_out((*(known[name] for name in kept), *later), later=True)
        self._state = self._state.carried(self._plan)

    def _marked(self, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
        """The slots with what is known of whose optimizer normalises its gradient."""
        return slots

    def _lay_out(self, slots: tuple[Slot, ...], *, later: bool = False) -> None:
        slots = self._marked(slots)
        self._own_slots = self._slots = slots
        self._sharding = sharding_of(self.parameters, slots, self._process_groups)
        self._replicas = LossOfReplicas(self.parameters.values())
        dtypes = {name: parameter.dtype for name, parameter in self.parameters.items()}
        if self._sharding is not None:
            self._slots = self._sharding.slots
            dtypes = {entry.slot.name: entry.dtype for entry in self._sharding.entries}
        self._plan = make_plan(self.clip, self._slots, later=later)
        refuse_complex_ranges(self._plan, dtypes)
        if self._sharding is None:
            self._gradients = self._source(self.parameters, slots)
        else:
            refuse_on_shards(self._plan, self._sharding)
            self._gradients = self._spread_source(self.parameters, self._sharding)
        self._weight_layout = None


_NOTHING_TOLD = StepContext()
