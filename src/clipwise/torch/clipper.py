"""A clip at work on one set of parameters: its history, its counts, its last report."""

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from clipwise.clip import AnyClip, Norm, never_clips
from clipwise.config.arguments import as_clip
from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError
from clipwise.functional.arguments import NonFinite, as_nonfinite
from clipwise.functional.names import refuse_unmatched
from clipwise.functional.slots import UnitAxes
from clipwise.namespace import Array
from clipwise.report import ClipReport
from clipwise.torch._first_calls import FirstCalls
from clipwise.torch._one_step import OneStep, as_loss
from clipwise.torch._parameters import Parameters, named, refuse_unmade
from clipwise.torch._process_groups import ProcessGroups
from clipwise.torch._slots import slots_of
from clipwise.torch._state import PolicyState, read_counts, refuse_other_states
from clipwise.torch.engines import refuse_unknown_engine
from clipwise.torch.refusals import refuse_flat_shards

__all__ = ["Clipper", "Follower", "Veto"]

VERSION, COUNTS = 1, ("steps", "skipped_steps", "clipped_steps")
"""Of what `Clipper.state_dict` gives."""

Follower: TypeAlias = Callable[["Clipper", ClipReport, Tensor | None], None]
Veto: TypeAlias = Callable[["Clipper", float, float | None], bool]


class Clipper(OneStep):
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
        self._losses.append(as_loss(loss))

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

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on: counts and the histories of the thresholds.

        Holds tensors, numbers, lists and dicts only, so ``torch.load(..., weights_only=True)`` reads it.
        """
        return {
            "version": VERSION,
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
        refuse_other_states(state, VERSION, COUNTS)
        loaded = self._state.read(state["thresholds"])
        steps, skipped, clipped = read_counts(state, COUNTS)
        self._state.value = loaded
        self.steps, self._skipped_steps, self._clipped_steps = steps, skipped, clipped
