"""Clip before every step of an optimizer, from one line, through its own hooks."""

import copy
import dataclasses
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clipwise.clip import AnyClip, clip_by_global_norm
from clipwise.config.arguments import as_clip, as_weight_clip
from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError, StateError
from clipwise.functional.arguments import NonFinite, may_leave_out
from clipwise.functional.context import StepContext
from clipwise.functional.slots import Slot, UnitAxes
from clipwise.namespace import Namespace
from clipwise.stack import warn
from clipwise.torch import _foreign_clipping
from clipwise.torch._after_step import AfterStep
from clipwise.torch._fused import FusedStep, is_fused
from clipwise.torch._joint_step import JointStep
from clipwise.torch._normalising import normalised_by
from clipwise.torch._one_step import Outcome
from clipwise.torch._parameters import named_by, of_optimizers, refuse_unmade
from clipwise.torch._placements import local
from clipwise.torch._process_groups import ProcessGroups
from clipwise.torch._unseen import Unseen
from clipwise.torch._wrappers import chain, unwrapped, wrapper_of_caller
from clipwise.torch.clipper import Clipper
from clipwise.torch.engines import array_on
from clipwise.torch.hooks import StepHooks
from clipwise.torch.refusals import refuse_engine_of_caller, refuse_flat_shards
from clipwise.torch.updates import UpdateClipper
from clipwise.torch.weights import WeightClipper

__all__ = ["AttachedClipper", "attach"]


def attach(
    optimizer: Optimizer | Sequence[Optimizer],
    clip: AnyClip | str | Mapping[str, Any] | None = None,
    *,
    model: nn.Module | None = None,
    nonfinite: NonFinite = "skip",
    weights: AnyClip | str | Mapping[str, Any] | None = None,
    updates: AnyClip | str | Mapping[str, Any] | None = None,
    direction: bool = False,
    unit_axes: UnitAxes | None = None,
    process_groups: ProcessGroups | None = None,
    include_normalised: bool = False,
) -> "AttachedClipper":
    """Clip the gradients of an optimizer's parameters before each of its steps, from now on.

    The loop stays as it is::

        clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1.0), model=model)
        for batch in data:
            optimizer.zero_grad()
            loss = model(batch)
            loss.backward()
            optimizer.step()          # clipped; clipper.report says what was done

    Parameters may be spread over ranks (DTensors of ``fully_shard``, of tensor parallel modules): every rank
    attaches, and the norm is that of the whole model. What no mesh says, ``process_groups`` does::

        attach(optimizer, clip, model=stage, process_groups={"*": pipeline_group})

    It clips what the step is about to use: the sum over micro-batches under accumulation, gradients without
    their scale under `torch.amp.GradScaler` (with fused optimizers too, which step on scaled gradients), and
    after each evaluation of a closure, whose loss it observes by itself. A step that the scaler skips is
    neither clipped nor counted as clipped, and losses observed for it count in the mean of the next.
    Parameters may come to the optimizer and leave it.

    Several optimizers that are attached together have one joint norm: it is measured when the first of them
    steps, over the gradients of all, which must be complete then; each further one that steps on gradients
    which did not change since belongs to the same step.

    A copy of the optimizer (`copy.copy`, `copy.deepcopy`, pickle) has no clip attached, as it has none of its
    hooks: attach again. A copy of the clipper is a record that acts on nothing.
    ``optimizer.load_state_dict`` leaves the clip attached.

    Args:
        optimizer: any `torch.optim.Optimizer`, wrappers that carry one, or several. Of one around another
            it is the outer (Lookahead), or the inner where that makes the step (Fabric, Accelerate, SAM).
        clip: what to do; a string or a mapping is read by `clipwise.config.parse`. None with ``weights`` or
            ``updates``: the gradients are only measured. A step that ``action="skip"`` leaves out does not
            happen either.
        model: gives parameters their names, for reports and `by_name`, and tells which are embeddings
            and which transposed convolutions.
        nonfinite: as for `Clipper`. With ``"skip"`` a step whose gradients hold NaN or Inf does not run:
            parameters and optimizer state stay as they were, and ``clipper.skipped_steps`` counts it. If
            an evaluation of `torch.optim.LBFGS` after the first one of a step is bad, the optimizer
            continues with the evaluations before it. Fused optimizers skip the step on the device, under
            a gradient scaler too, without a host-device sync; other optimizers need one sync a step.
        weights: what is done after every step, unless it is skipped, to the weights of the optimizer that
            made it, such as ``clip_by_value(0.01)`` for WGAN; ``clipper.weights.report`` says what.
        updates: what is done to the update of every step, when the optimizer has made it of the gradient:
            ``clip_by_block_rms(1.0)`` (Adafactor), ``stable_adamw()``, or any other clip that does not follow
            the loss. See `UpdateClipper` for the formula and the memory that it costs;
            ``clipper.updates.report`` says what was done.
        direction, unit_axes: as for `Clipper`; ``unit_axes`` is for ``weights`` and ``updates`` too.
        process_groups: as for `Clipper`: which parameters are others on each rank of which group.
        include_normalised: measure and clip parameters, too, whose optimizer normalises the gradient itself,
            so that it has no size to clip: those of Muon (`torch.optim.Muon`, other classes of that name,
            groups with ``use_muon=True``), `torch.optim.Rprop`, signSGD without momentum. By default they are
            left out of every norm and are not clipped; NaN and Inf are looked for in them all the same, and
            ``clipper.report.normalised`` says how many there were.

    Returns:
        An `AttachedClipper`; also a context manager that detaches at its end.

    Raises:
        ArgumentError: this is no optimizer, an engine's inner one (DeepSpeed, Megatron, ZeRO) that holds a
            part of the gradients only, one that takes no steps itself (Lomo, layer-wise GaLore), or a clip is
            attached to it already; the bound of the weights or the clip of updates follows the loss;
            ``updates`` with an optimizer whose steps cannot be changed after it (LBFGS, schedule-free,
            Lookahead, master weights) or whose learning rate is not known; or, from the first step, it is
            stepped inside ``backward`` with a clip that needs all gradients.
        ParameterError: a pattern of `by_name`, ``unit_axes`` or ``process_groups`` matches no parameter, or
            the model is another one.

    Warns:
        UserWarning: if all gradients are normalised by their optimizer; once, if the loop clips too; at the
            end (detached, or nobody holds it), if it saw no gradient and yet the weights moved; at the first
            step, if a wrapper's own part of a step cannot be skipped.
    """
    return AttachedClipper(
        optimizer,
        clip,
        model=model,
        nonfinite=nonfinite,
        weights=weights,
        updates=updates,
        direction=direction,
        unit_axes=unit_axes,
        process_groups=process_groups,
        include_normalised=include_normalised,
    )


class AttachedClipper(Clipper):
    """A `Clipper` that acts before every step of an optimizer, or of several. Made by `attach`.

    Attributes:
        weights: the `Clipper` of the weights after every step, None without one.
        updates: the `UpdateClipper` of what every step did, None without one.
    """

    def __init__(
        self,
        optimizer: Optimizer | Sequence[Optimizer],
        clip: AnyClip | str | Mapping[str, Any] | None,
        *,
        model: nn.Module | None,
        nonfinite: NonFinite,
        weights: AnyClip | str | Mapping[str, Any] | None,
        updates: AnyClip | str | Mapping[str, Any] | None,
        direction: bool,
        unit_axes: UnitAxes | None,
        process_groups: ProcessGroups | None,
        include_normalised: bool = False,
    ) -> None:
        if clip is None and weights is None and updates is None:
            raise ArgumentError(
                "expected a clip such as clipwise.clip_by_global_norm(1.0), or weights= or updates=, got None"
            )
        if not isinstance(model, nn.Module | None):
            raise ArgumentError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        optimizers = unwrapped(optimizer)
        if weights is not None and process_groups and len(optimizers) > 1:
            raise ArgumentError(
                "weights= of several optimizers takes no process_groups: attach to each optimizer by itself"
            )
        if any(clipper_of(inner) is not None for one in optimizers for inner in chain(one)):
            raise ArgumentError(
                "a clip is attached to this optimizer already: detach it first, or use clipwise.chain"
            )
        clip_given = clip is not None
        clip = as_clip(clip_by_global_norm(float("inf")) if clip is None else clip)
        self._leaves_out = may_leave_out(clip, nonfinite)
        # Held weakly: the optimizer's hooks hold this clipper, and both are to go when the optimizer goes.
        self._optimizers = [weakref.ref(one) for one in optimizers]
        self._model = model
        self._include_normalised = include_normalised
        parameters = of_optimizers(optimizers, model)
        super().__init__(
            parameters.items(),
            clip,
            nonfinite=nonfinite,
            direction=direction,
            model=model,
            unit_axes=unit_axes,
            process_groups=process_groups,
        )
        self.weights = None
        if weights is not None:
            bound = as_weight_clip(weights)
            self.weights = WeightClipper(
                parameters.items(), bound, model=model, unit_axes=unit_axes, process_groups=process_groups
            )
        self.updates = None
        if updates is not None:
            self.updates = UpdateClipper(
                optimizers,
                parameters,
                updates,
                nonfinite=nonfinite,
                model=model,
                unit_axes=unit_axes,
                process_groups=process_groups,
            )
        names = ", ".join(type(one).__name__ for one in optimizers)
        self._unseen = Unseen(map(local, parameters.values()), f"{spelled(self.clip)}, attached to {names},")
        weakref.finalize(self, self._unseen.say)
        self._say_if_nothing_is_left()
        self._current = self._ids()
        self._joint_step = JointStep()
        self._fused_step: FusedStep | None = None
        self._moves = False
        self._checked: set[int] = set()
        self._handles = [
            handle
            for one in optimizers
            for handle in StepHooks(
                begin=self._begin,
                again=self._restore,
                ready=self._ready,
                halt=self._joint_step.hold_back,
                end=self._end,
            ).register(one)
        ]
        if clip_given:  # a clip of the weights alone has nothing against another of the gradients
            _foreign_clipping.listen(self)

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that it acts on, as long as they live."""
        return [one for reference in self._optimizers if (one := reference()) is not None]

    @property
    def optimizer(self) -> Optimizer | None:
        """The first optimizer, None after its end."""
        return next(iter(self.optimizers), None)

    def __getstate__(self) -> dict[str, Any]:
        """A copy is a record: it acts on nothing, and to detach it ends nothing."""
        return super().__getstate__() | {
            "_optimizers": self.optimizers,
            "_handles": [],
            "_joint_step": JointStep(),
            "_fused_step": None,
            "_unseen": None,
            "weights": copy.copy(self.weights),
            "updates": copy.copy(self.updates),
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _optimizers=[weakref.ref(one) for one in state["_optimizers"]])
        self._unseen = Unseen((), "a copy")

    def detach(self) -> None:
        """Stop clipping; the report and the counts stay.

        Warns:
            UserWarning: no gradient was seen, and the weights moved.
        """
        if self._handles:
            self._unseen.say()
            self._unseen.end()
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for optimizer in self.optimizers:  # a step that raised left it as it was told to be for that step
            self._restore(optimizer)
        _foreign_clipping.stop_listening(self)

    def __enter__(self) -> "AttachedClipper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """As `Clipper.state_dict`, parameters that came to the optimizer since the last step included."""
        self._follow_optimizers()
        return super().state_dict() | {name: one.state_dict() for name, one in self._after_steps.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Clipper.load_state_dict`; add parameter groups to the optimizer before, as they were."""
        self._follow_optimizers()
        for name in ("weights", "updates"):
            has = isinstance(state, Mapping) and name in state
            if has != (name in self._after_steps):
                raise StateError(f"the state has {'a' if has else 'no'} clip of {name}, unlike this clipper")
        before = self.state_dict()
        super().load_state_dict(state)
        try:
            for name, one in self._after_steps.items():
                one.load_state_dict(state[name])
        except StateError:
            super().load_state_dict(before)
            for name, one in self._after_steps.items():
                one.load_state_dict(before[name])
            raise

    @property
    def _after_steps(self) -> dict[str, AfterStep]:
        """What acts after the steps, in this order."""
        every = {"updates": self.updates, "weights": self.weights}
        return {name: one for name, one in every.items() if one is not None}

    # The steps.

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

    def _marked(self, slots: tuple[Slot, ...]) -> tuple[Slot, ...]:
        normalised = {} if self._include_normalised else normalised_by(self.optimizers)
        return tuple(
            dataclasses.replace(slot, normalised=id(self.parameters[slot.name]) in normalised)
            for slot in slots
        )

    def _say_if_nothing_is_left(self) -> None:
        if self._own_slots and all(slot.normalised for slot in self._own_slots):
            (name, *_) = dict.fromkeys(normalised_by(self.optimizers).values())
            warn(
                f"{spelled(self.clip)} clips nothing: {name} normalises the gradients of all"
                f" {len(self._own_slots)} parameters itself, so their size does not matter. NaN and Inf are"
                " still looked for; attach(..., include_normalised=True) measures and clips them",
                past=("torch",),
            )

    # Being told by others.

    def clips(self, parameters: Iterable[Tensor]) -> bool:
        """Whether the gradient of any is clipped here."""
        return not {id(p) for p in parameters}.isdisjoint(self._current)

    def hear(self, function: str, threshold: float) -> None:
        """Say once that somebody else clips these gradients too."""
        _foreign_clipping.stop_listening(self)
        warn(
            f"the loop clips too: {function} to {threshold:g}, and clipwise with {spelled(self.clip)} after"
            " it; keep one of them (a threshold of inf only measures)",
            past=("torch",),
        )

    # Following the optimizers.

    def _ids(self) -> list[int]:
        every: list[int] = []
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                every += map(id, group["params"])
        return every

    def _follow_optimizers(self) -> None:
        """Take in parameters that came to the optimizers since the last step; let go of those that left."""
        current = self._ids()
        if current == self._current:
            return
        known = {id(p): name for name, p in self.parameters.items()}
        now = of_optimizers(self.optimizers, self._model)
        gone = self.parameters.keys() - {known[id(p)] for p in now.values() if id(p) in known}
        # One that the model has in place of another, such as its shard, has its name and history.
        model = () if self._model is None else named_by(self._model)
        free = gone & {name for name, p in model if id(p) not in known}
        new: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name, parameter in now.items():
            if id(parameter) in known:
                kept[known[id(parameter)]] = parameter
            else:
                while (name in self.parameters and name not in free) or name in new:
                    name += "+"  # another parameter had this name
                new[name] = parameter
        refuse_unmade(new)
        refuse_flat_shards(new)
        for clipper in (self, *self._after_steps.values()):
            clipper._follow(kept, new, self._model)
        self._current = current

    def _context(self, xp: Namespace) -> StepContext:
        if not self._sees:
            return super()._context(xp)
        groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]
        rate = _largest([group["lr"] for group in groups if "lr" in group])
        return StepContext(
            step=float(self.steps),
            loss=self._loss(xp),
            learning_rate=array_on(xp, rate) if isinstance(rate, Tensor) else rate,
            momentum=max((float(group.get("momentum", 0.0)) for group in groups), default=0.0),
            scale_free=any(map(_is_scale_free, self.optimizers)),
        )


def clipper_of(optimizer: Optimizer) -> "AttachedClipper | None":
    """The clipper that is attached to an optimizer, None where there is none."""
    for hook in getattr(optimizer, "_optimizer_step_pre_hooks", {}).values():
        hooks = getattr(hook, "__self__", None)
        if isinstance(hooks, StepHooks) and isinstance(hooks.owner, AttachedClipper):
            return hooks.owner
    return None


def _largest(rates: list[float | Tensor]) -> float | Tensor | None:
    if not rates:
        return None
    if any(isinstance(rate, Tensor) for rate in rates):
        device = next(rate.device for rate in rates if isinstance(rate, Tensor))
        return torch.stack([torch.as_tensor(rate, device=device).reshape(()) for rate in rates]).max()
    return max(rates)


def _is_scale_free(optimizer: Optimizer) -> bool:
    """Whether the optimizer divides by the gradient's own size; only the SGD family is known not to."""
    *_, innermost = chain(optimizer)
    proportional = isinstance(innermost, torch.optim.SGD | torch.optim.ASGD)
    return not (proportional or "sgd" in type(innermost).__name__.lower())
