"""A clip for one set of parameters, with its state, its counts and its last report."""

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
        self._losses.append(as_loss(loss))

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
        self._look_at_first_calls()
        return self._step(None).report

    def _look_at_first_calls(self) -> None:
        if self._first_calls is None:
            self._first_calls = FirstCalls(spelled(self.clip), asks=not never_clips(self.clip))
        if self._first_calls.asks:
            self._first_calls.call(self.parameters.values())

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """All that the next step depends on: counts and the histories of the thresholds.

        It contains tensors, numbers, lists and dicts only, so ``torch.load(..., weights_only=True)`` can read
        it.
        """
        return {
            "version": VERSION,
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
        refuse_other_states(state, VERSION, COUNTS)
        loaded = self._state.read(state["thresholds"])
        steps, skipped, clipped = read_counts(state, COUNTS)
        self._state.value = loaded
        self.steps, self._skipped_steps, self._clipped_steps = steps, skipped, clipped
