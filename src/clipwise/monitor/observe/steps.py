"""Every step of every optimizer in this process: measured, or clipped, and recorded."""

import gc
import os
import threading
import weakref
from collections.abc import Callable
from functools import partial
from operator import is_
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torchs

from clipwise import config
from clipwise.clip import clip_by_global_norm
from clipwise.errors import ClipwiseError, TrainingStopped
from clipwise.monitor.observe.bootstrap.losses import Losses
from clipwise.monitor.observe.bootstrap.own_clips import OwnClips
from clipwise.monitor.observe.clipped import GuardedClipper
from clipwise.monitor.observe.meter import NormMeter
from clipwise.monitor.observe.names import Owners, is_shared, others, owners
from clipwise.monitor.observe.over_ranks import MeterOverRanks
from clipwise.monitor.observe.recording import Recorder, monitor_here
from clipwise.monitor.observe.settings import Settings
from clipwise.monitor.recorder import Monitor
from clipwise.monitor.store import CLIP_CALLS
from clipwise.stack import frames_of
from clipwise.torch.attach import clipper_of
from clipwise.torch.clipper import Clipper
from clipwise.torch.hooks import StepHooks, only_makes_state
from clipwise.torch.refusals import refuse_engines, refuse_flat_shards
from clipwise.torch.whole_norms import is_spread

ASKED_AT = 10
"""The step at which it is asked whether the script's own clip has acted on anything."""

MOST = 32
"""Optimizers of one process that are recorded at a time: more of them are no few parts of one model."""


class Source:
    """One optimizer, as it is recorded.

    Attributes:
        name: whose its values are in the recording.
        hooks: how many hooks of its own it had when it was met: another one may be a clip.
        optimizer: held weakly.
        clipper: what clips it, None where it is only measured.
        meter: what measures it, None where it is not measured.
        parameters: by group, when their names were found out.
        steps: those that were recorded, or could have been.
        is_mute: nothing is recorded any more, and the other ranks still measure.
    """

    def __init__(self, optimizer: Optimizer, name: str) -> None:
        self.optimizer, self.name = weakref.ref(optimizer), name
        self.hooks = 0
        self.clipper: Clipper | None = None
        self.meter: NormMeter | None = None
        self.parameters: list[list[Tensor]] = []
        self.steps = 0
        self.is_mute = False


class Observer:
    """Acts before every step in this process.

    Args:
        losses: of the backward passes.
        clips: what the script clips by itself.
        say: is told what the user should know, in one sentence.
    """

    def __init__(self, losses: Losses, clips: OwnClips, say: Callable[[str], None]) -> None:
        self._losses, self._own_clips, self._say = losses, clips, say
        self._settings = Settings.here()
        self._clip = None if self._settings.clip is None else config.parse(self._settings.clip)
        self._hooks = StepHooks(
            begin=_nothing, again=_nothing, ready=self._ready, halt=_nothing, end=_nothing
        )
        self._start()
        if hasattr(os, "register_at_fork"):  # what is forked off later begins anew
            os.register_at_fork(after_in_child=self._start)

    def _start(self) -> None:
        self._meeting = threading.RLock()
        self._sources: weakref.WeakKeyDictionary[Optimizer, Source | None] = weakref.WeakKeyDictionary()
        self._names: dict[str, str] = {}
        self._recorder: Recorder | None = None

    def before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        """What torch calls: measure, or see to it that somebody clips. Nothing of this ends the training."""
        try:
            if _is_inner(optimizer):
                return None
            source = self._sources.get(optimizer, _NOBODY)
            if source is _NOBODY:
                with self._meeting:  # several threads may train at once
                    self._sources[optimizer] = None
                    source = self._sources[optimizer] = self._meet(optimizer)
            if source is None:
                return None
            if len(optimizer._optimizer_step_pre_hooks) != source.hooks:
                self._look_again(optimizer, source)
            if source.clipper is not None:
                return None
            if len(args) > 1 or kwargs:  # perhaps a closure
                return self._hooks.before_step(optimizer, args, kwargs)
            if only_makes_state(optimizer):
                return None
            self._record(optimizer, source, self._losses.of(optimizer))
        except TrainingStopped:
            raise
        except Exception as error:
            self._give_up(optimizer, error)
        return None

    # At the first step of an optimizer.

    def _meet(self, optimizer: Optimizer) -> Source | None:
        if torch._C._current_graph_task_id() != -1:
            self._say("optimizers that step inside backward are neither recorded nor clipped")
            return None
        if self._living() >= MOST:
            self._say(f"this process uses more than {MOST} optimizers at a time; the others are not recorded")
            return None
        found = owners(optimizer)
        source = Source(optimizer, self._name(optimizer, found.title))
        there = clipper_of(optimizer)
        if there is not None:
            self._take_up(there, source)
        else:
            try:
                refuse_engines(optimizer)
                refuse_flat_shards(found.names(optimizer))
                if self._clip is not None:
                    self._attach(optimizer, source, found)
            except ClipwiseError as error:
                done = "neither clipped nor measured" if _is_parted(optimizer) else "not clipped"
                self._say(f"{type(optimizer).__name__} is {done}: {error}")
            if source.clipper is None and not _is_parted(optimizer):
                self._lay_out(optimizer, source, found)
        source.hooks = len(optimizer._optimizer_step_pre_hooks)
        return source

    def _living(self) -> int:
        """How many optimizers are recorded and still there."""
        for _ in range(2):
            count = sum(source is not None for source in self._sources.values())
            if count < MOST:
                break
            gc.collect()  # one in a circle of references has gone, too
        return count

    def _attach(self, optimizer: Optimizer, source: Source, found: Owners) -> None:
        """Clip from this step on: hooks that are added now are called in it."""
        assert self._clip is not None
        clipper = GuardedClipper(
            optimizer, self._clip, model=found.model, losses=self._losses.of, say=self._say
        )
        self._follow(clipper, source)

    def _look_again(self, optimizer: Optimizer, source: Source) -> None:
        """A hook has come or gone: perhaps the script has attached a clip, or taken it away."""
        source.hooks = len(optimizer._optimizer_step_pre_hooks)
        there = clipper_of(optimizer)
        if there is not None and there is not source.clipper:
            self._take_up(there, source)
        elif there is None and source.clipper is not None:
            source.clipper = None
            if source.meter is None and not _is_parted(optimizer):
                self._lay_out(optimizer, source, owners(optimizer))

    def _take_up(self, clipper: Clipper, source: Source) -> None:
        """Record what the script's own clip does."""
        if any(isinstance(getattr(_function(one), "__self__", None), Monitor) for one in clipper.followers):
            self._say("the script records its steps by itself, with a Monitor; they are not recorded twice")
            source.clipper = clipper
            return
        if self._clip is not None:
            self._say("the script attaches a clip of clipwise itself; --clip is not used")
        self._follow(clipper, source)

    def _follow(self, clipper: Clipper, source: Source) -> None:
        source.clipper = clipper
        self._open().describe(clipper.clip)
        clipper.follow(partial(self._heard, source))

    def _lay_out(self, optimizer: Optimizer, source: Source, found: Owners) -> None:
        source.parameters = [list(group["params"]) for group in optimizer.param_groups]
        names = found.names(optimizer)
        try:
            source.meter = (MeterOverRanks if any(map(is_spread, names.values())) else NormMeter)(names)
        except ClipwiseError as error:
            source.meter = None
            self._say(f"{type(optimizer).__name__} is not measured: {error}")

    def _name(self, optimizer: Optimizer, title: str) -> str:
        """ "" for the only one; the title of its modules, or a number, where there are several."""
        names = self._names
        if not names and not others(optimizer):
            names[""] = title
            self._open().name_unnamed(title)
            return ""
        name = title
        if not name or name in names or title in names.values():
            name = f"optimizer{len(names) + 1}"
        names[name] = title
        return name

    # At every step.

    def _ready(self, optimizer: Optimizer, loss: Any) -> None:
        """The gradients are those of the step; with a closure, after each evaluation."""
        try:
            source = self._sources.get(optimizer)
            if source is not None:
                seen = self._losses.of(optimizer)
                self._record(optimizer, source, _number(loss) if seen is None else seen)
        except TrainingStopped:  # a rule of the user's
            raise
        except Exception as error:
            self._give_up(optimizer, error)

    def _record(self, optimizer: Optimizer, source: Source, loss: Any) -> None:
        if not self._is_wanted(source.steps + 1):
            source.steps += 1
            return
        if source.meter is not None and not _are_those(optimizer, source.parameters):
            self._lay_out(optimizer, source, owners(optimizer))
        if source.meter is None:  # its norms are those of a part
            source.steps += 1
            if loss is not None:
                self._open().log(step=source.steps, name=source.name, loss=loss)
            return
        scale = getattr(optimizer, "grad_scale", None)
        call = self._own_clips.of(optimizer, source.meter.present) if self._own_clips else None
        try:
            order = 2.0 if call is None else call.order
            report = source.meter.read(scale, order, call)
        except ClipwiseError as error:  # of all ranks alike
            source.meter = None
            self._say(f"{type(optimizer).__name__} is not measured any more: {error}")
            self._record(optimizer, source, loss)
            return
        if report is None:  # a step without any gradient does nothing
            return
        source.steps += 1
        if source.is_mute:
            return
        recorder = self._open()
        if source.steps == 1:
            recorder.know_optimizer(optimizer, order, source.name)
        if source.steps == ASKED_AT and self._own_clips.made:
            said = (self._own_clips.made, int(self._own_clips.acts))
            recorder.log(step=source.steps, name=source.name, **dict(zip(CLIP_CALLS, said, strict=True)))
        if call is not None and 0 <= call.threshold < float("inf"):
            recorder.describe(clip_by_global_norm(call.threshold, call.order))
        found_inf = getattr(optimizer, "found_inf", None)
        if found_inf is not None:  # a fused optimizer leaves the step out by itself
            object.__setattr__(report, "skipped", found_inf.detach().reshape(()) > 0)
        recorder.take(report, step=source.steps, name=source.name, loss=loss)

    def _heard(self, source: Source, clipper: Clipper, report: Any, told: Any) -> None:
        """A clipper, the script's own or that of ``--clip``, has made a step."""
        optimizer = source.optimizer()
        if optimizer is None or self._sources.get(optimizer) is not source:
            return
        try:
            loss = clipper.loss if isinstance(clipper, GuardedClipper) else self._losses.of(optimizer)
            if source.steps == 0:
                self._open().know_clipper(clipper, source.name)
            source.steps = clipper.steps
            if self._is_wanted(clipper.steps):
                told = told if loss is None else loss
                self._open().take(report, step=clipper.steps, name=source.name, loss=told)
        except TrainingStopped:  # a rule of the user's
            raise
        except Exception as error:
            self._give_up(optimizer, error)

    def _is_wanted(self, step: int) -> bool:
        every, layers = self._settings.every, self._settings.layers_every
        return step % every == 0 or (layers > 0 and step % layers == 0)

    def _open(self) -> Recorder:
        if self._recorder is None:
            self._recorder = monitor_here(self._settings)
        return self._recorder

    def _give_up(self, optimizer: Optimizer, error: Exception) -> None:
        source = self._sources[optimizer]
        if source is None or source.is_mute or not isinstance(source.meter, MeterOverRanks):
            self._sources[optimizer] = None
        else:  # the other ranks would wait for this one
            source.is_mute = True
        self._say(
            f"{type(optimizer).__name__} is not recorded any more, and the training goes on:"
            f" {type(error).__name__}: {error}"
        )


_NOBODY: Any = object()
"""In the place of the source of an optimizer that was not met yet."""


def _nothing(optimizer: Optimizer) -> None:
    """The gradients are left as they are, so there is nothing to put back."""


def _is_inner(optimizer: Optimizer) -> bool:
    """Whether this step is made by the step of another optimizer of these parameters, which was recorded."""
    steps = frames_of(file=torchs.__file__)  # torch's own wrapper of every step
    next(steps, None)
    for frame in steps:
        outer = frame.f_locals.get("self")
        if outer is optimizer or (isinstance(outer, Optimizer) and is_shared(outer, optimizer)):
            return True
    return False


def _function(follower: Any) -> Any:
    return getattr(follower, "func", follower)


def _are_those(optimizer: Optimizer, parameters: list[list[Tensor]]) -> bool:
    """Whether these are the parameters of the optimizer, group by group."""
    groups = optimizer.param_groups
    if len(groups) != len(parameters):
        return False
    for group, known in zip(groups, parameters, strict=True):
        now = group["params"]
        if len(now) != len(known) or not all(map(is_, now, known)):
            return False
    return True


def _is_parted(optimizer: Optimizer) -> bool:
    """Whether a norm of what is here would not be the norm of the gradient."""
    parameters = {str(i): p for group in optimizer.param_groups for i, p in enumerate(group["params"])}
    try:
        refuse_engines(optimizer)
        refuse_flat_shards(parameters)
    except ClipwiseError:
        return True
    return False


def _number(loss: Any) -> Any:
    """What a closure returned, if it is a loss."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return loss
    return loss if isinstance(loss, float) else None
