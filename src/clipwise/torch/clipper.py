"""A clip at work on one set of parameters: its history, its counts, its last report."""

import copy
import numbers
from collections.abc import Callable, Container, Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from clipwise.clip import AnyClip, Norm, never_clips
from clipwise.config.arguments import as_clip
from clipwise.config.spelling import spelled
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
from clipwise.torch._first_calls import FirstCalls
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
    """What one step did, and what is left to what follows it.

    Attributes:
        report: in torch's tensors.
        coefficient: what all gradients are still to be multiplied by; None: nothing is left to do.
        skip: whether to leave the step out, where only the device knows (0-d); None: the report says.
    """

    report: ClipReport
    coefficient: Array | None = None
    skip: Array | None = None


class Clipper:
    """Clips the gradients of some parameters each time `clip_` is called, and remembers between the calls.

    For a plain loop `clipwise.torch.attach` is one line less. Use this where there is no optimizer to attach
    to, or where the moment of clipping is yours to choose::

        clipper = Clipper(model.named_parameters(), clipwise.autoclip(10))
        ...
        loss.backward()
        report = clipper.clip_()
        if not report.skipped:
            optimizer.step()

    Args:
        parameters: a module, tensors, or (name, tensor) pairs; a tensor that is listed twice counts once.
        clip: what to do; a string or a mapping is read by `clipwise.config.parse`.
        nonfinite: what happens to gradients that hold NaN or Inf: ``"skip"`` leaves them and reports
            ``skipped``; ``"zero"`` puts 0 in place of such entries and clips the rest; ``"error"`` raises
            before anything is touched; ``"propagate"`` clips as if nothing were wrong. All but the last wait
            for the device once a step.
        direction: measure the cosine between the gradients before and after even where it is not free; it
            costs a copy of the gradients.
        model: tells which weights are embeddings, for `clipwise.auto`, and which are those of transposed
            convolutions, for ``per="unit"``.
        unit_axes: shell patterns of names to the axes along which output units lie, where they are not:
            axis 0 of a weight (axis 1 of a transposed convolution of the model), all of a vector. A number,
            several, or None: all of it is one unit. The first match wins; for ``per="unit"`` only.
        process_groups: shell patterns of names to process groups: parameters that match are others on each
            rank of the group (experts or stages of a pipeline), of which each rank has some or none. A
            `DeviceMesh` counts as the group of its ranks; None: the same on all ranks that have it, such as
            tied weights; the name of another parameter: tied to that one. The first match wins. Every rank of
            the run gives the same patterns.

    Attributes:
        report: the `ClipReport` of the last call, None before the first.
        steps: calls so far.

    Raises:
        ArgumentError: the clip or ``nonfinite`` is not one, or an axis is none of its weight.
        ParameterError: a pattern of `by_name`, of ``unit_axes`` or of ``process_groups`` matches nothing.
    """

    _source: type[Gradients] = Gradients
    _spread_source: type[ShardedGradients] = ShardedGradients
    _weight_layout: Layout | None
    _sharding: Sharding | None
    _of_updates = False
    _first_calls: FirstCalls | None = None

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
            "_first_calls": None,
            "_process_groups": None,  # they belong to their process, and a copy follows no optimizer
        }

    @property
    def clipped(self) -> dict[str, Tensor]:
        """The parameters that enter the norm, by name: all but those whose optimizer normalises them."""
        left = {slot.name for slot in self._own_slots if slot.normalised}
        return {name: p for name, p in self.parameters.items() if name not in left}

    @property
    def order(self) -> Norm:
        """How the norms of the report as a whole are measured: 2.0, another order, or ``"rms"``."""
        return self._plan.norm

    @property
    def clipped_steps(self) -> int:
        """How many steps were clipped; reading it waits for the device."""
        return int(self._clipped_steps)

    @property
    def skipped_steps(self) -> int:
        """How many steps were skipped; reading it may wait for the device."""
        return int(self._skipped_steps)

    def observe(self, loss: Tensor | float) -> None:
        """Tell the loss of the coming step, for thresholds that react to it.

        Call it before the step, once for each micro-batch; several losses count as their mean. Under
        DistributedDataParallel every rank calls it, and a threshold follows the mean over the ranks.
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
        """The functions that are called after each step, in their order."""
        return tuple(self._followers)

    def follow(self, follower: "Follower") -> Callable[[], None]:
        """Have a function called after each step.

        It is given this clipper, the report, and the last loss that was observed, or None. It runs in the
        training's own thread, so it should not wait for the device.

        Returns:
            What ends it.
        """
        self._followers.append(follower)
        return lambda: self._followers.remove(follower) if follower in self._followers else None

    def veto(self, judge: "Veto") -> Callable[[], None]:
        """Have a function asked before each step whether to leave it out.

        It is given this clipper, the norm of the gradients, and the last loss that was observed, or None.
        Where it says so, the step is reported as ``skipped``, the gradients are as they were, and `attach`
        leaves the optimizer's step out. This waits for the device once a step.

        Of parameters that are spread over ranks (DTensor) each rank needs one, the step is left out on all
        where any of them says so, and the loss is the mean of those that the ranks observed. A step of which
        some ranks have none raises `ArgumentError` on the others.

        Returns:
            What ends it.
        """
        self._vetoes.append(judge)
        return lambda: self._vetoes.remove(judge) if judge in self._vetoes else None

    @property
    def decides_together(self) -> bool:
        """Whether every process of the training takes part in each decision, as its parameters lie on all."""
        return self._sharding is not None and (
            len(self._sharding.cover.ranks) == torch.distributed.get_world_size()
        )

    def clip_(self) -> ClipReport:
        """Clip the gradients as they are now, in place, and report.

        Raises:
            NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``; nothing was touched.
            ParameterError: the threshold follows the loss and `observe` was not called; or these are
                gradients in place of parameters.

        Warns:
            UserWarning: once, if none of the first calls found a gradient that no step had used yet.
        """
        self._look_at_first_calls()
        return self._step(None).report

    def _look_at_first_calls(self) -> None:
        if self._first_calls is None:
            self._first_calls = FirstCalls(spelled(self.clip), asks=not never_clips(self.clip))
        if self._first_calls.asks:
            self._first_calls.call(self.parameters.values())

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
        """Everything that the next step depends on: counts and the histories of the thresholds.

        Holds tensors, numbers, lists and dicts only, so ``torch.load(..., weights_only=True)`` reads it.
        """
        return {
            "version": 1,
            "steps": self.steps,
            "skipped_steps": self.skipped_steps,
            "clipped_steps": self.clipped_steps,
            "thresholds": self._state.dump(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken; the run goes on as if it had never stopped.

        The numbers of a policy may differ from those it was taken with (another percentile, say).

        Raises:
            StateError: it was taken with another kind of clip, or with other parameters. Nothing is changed.
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
