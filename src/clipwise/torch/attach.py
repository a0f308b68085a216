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
from clipwise.torch._parameters import named_by, of_optimizers, refuse_unmade
from clipwise.torch._placements import local
from clipwise.torch._process_groups import ProcessGroups
from clipwise.torch._unseen import Unseen
from clipwise.torch._wrappers import chain, unwrapped, wrapper_of_caller
from clipwise.torch.clipper import Clipper, Outcome
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
    """Clip the gradients of an optimizer's parameters before each of its steps.

    The training loop stays unchanged::

        clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1.0), model=model)
        for batch in data:
            optimizer.zero_grad()
            loss = model(batch)
            loss.backward()
            optimizer.step()          # clipped; clipper.report says what was done

    Parameters may be sharded (DTensors of ``fully_shard`` and of tensor parallelism): every rank attaches,
    and the norm is that of the whole model. Sharding without a mesh is declared by ``process_groups``::

        attach(optimizer, clip, model=stage, process_groups={"*": pipeline_group})

    The clipped gradients are those that the step uses: the sum over micro-batches under gradient
    accumulation, and unscaled gradients under `torch.amp.GradScaler` (also for fused optimizers, which step
    on scaled gradients). With a closure they are clipped after each evaluation, whose loss is observed
    automatically. A step that the scaler skips is neither clipped nor counted, and losses observed for it
    count towards the mean of the next step. Parameters may be added to the optimizer and removed from it.

    Several optimizers that are attached together have one joint norm. It is measured when the first of them
    steps, over the gradients of all, which must be complete by then. The other optimizers use the same
    coefficients as long as their gradients have not changed since.

    A copy of the optimizer (`copy.copy`, `copy.deepcopy`, pickle) has no clip attached, since it has none of
    the hooks: attach again. A copy of the clipper is a record without effect. ``optimizer.load_state_dict``
    keeps the clip attached.

    Args:
        optimizer: any `torch.optim.Optimizer`, a wrapper around one, or several. For a wrapper, the clip is
            attached to the outer optimizer (Lookahead), or to the inner one if that makes the step (Fabric,
            Accelerate, SAM).
        clip: the clip; a string or a mapping is read by `clipwise.config.parse`. None together with
            ``weights`` or ``updates``: the gradients are only measured. A step that ``action="skip"`` skips
            is not taken.
        model: gives the parameters their names, for reports and `by_name`, and tells which weights are
            embeddings and which belong to transposed convolutions.
        nonfinite: as for `Clipper`. With ``"skip"``, a step whose gradients hold NaN or Inf is not taken:
            parameters and optimizer state stay unchanged, and ``clipper.skipped_steps`` counts it. If a later
            evaluation in a step of `torch.optim.LBFGS` is not finite, the optimizer continues with the
            evaluations before it. Fused optimizers skip the step on the device, also under a gradient scaler,
            without a host-device sync; other optimizers need one sync per step.
        weights: a clip for the weights of an optimizer after each of its steps, unless the step is skipped,
            such as ``clip_by_value(0.01)`` for WGAN. Its report is ``clipper.weights.report``.
        updates: a clip for the update of every step, after the optimizer has computed it from the gradient:
            ``clip_by_block_rms(1.0)`` (Adafactor), ``stable_adamw()``, or any other clip that does not follow
            the loss. See `UpdateClipper` for the formula and the memory it takes. Its report is
            ``clipper.updates.report``.
        direction, unit_axes: as for `Clipper`; ``unit_axes`` also applies to ``weights`` and ``updates``.
        process_groups: as for `Clipper`: which parameters differ between the ranks of which group.
        include_normalised: measure and clip also parameters whose optimizer normalises the gradient itself,
            so that the size of the gradient has no effect: Muon (`torch.optim.Muon`, other classes of that
            name, groups with ``use_muon=True``), `torch.optim.Rprop`, signSGD without momentum. By default
            they are left out of every norm and not clipped, but still checked for NaN and Inf;
            ``clipper.report.normalised`` is their number.

    Returns:
        An `AttachedClipper`; also a context manager that detaches at its end.

    Raises:
        ArgumentError: the argument is not an optimizer; it is the inner optimizer of an engine (DeepSpeed,
            Megatron, ZeRO) that holds only a part of the gradients; it takes no steps itself (Lomo,
            layer-wise GaLore); a clip is already attached; the clip of weights or updates follows the loss;
            ``updates`` is given for an optimizer whose step must not be changed afterwards (LBFGS,
            schedule-free, Lookahead, master weights) or whose learning rate is unknown; or, during the first
            step, the optimizer steps inside ``backward`` with a clip that needs all gradients.
        ParameterError: a pattern of `by_name`, ``unit_axes`` or ``process_groups`` matches no parameter, or
            ``model`` does not hold the optimizer's parameters.

    Warns:
        UserWarning: if the optimizer normalises all gradients itself; once, if the loop clips too; at the end
            (detached or garbage collected), if no gradient was seen although the weights changed; at the
            first step, if a wrapper's own part of a step cannot be skipped.

    >>> import torch, clipwise
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = torch.optim.SGD([weight], lr=1.0)
    >>> clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1.0))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> optimizer.step()
    >>> weight.data
    tensor([-0.6000, -0.8000])
    >>> print(clipper.report)
    norm 5 -> 1 (threshold 1, 100% clipped)
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
    """A `Clipper` that acts before every step of one or several optimizers. Created by `attach`.

    Attributes:
        weights: the `Clipper` of the weights after every step; None without one.
        updates: the `UpdateClipper` of every step's update; None without one.
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
        """The optimizers it acts on that still exist."""
        return [one for reference in self._optimizers if (one := reference()) is not None]

    @property
    def optimizer(self) -> Optimizer | None:
        """The first optimizer; None if it no longer exists."""
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
        """Stop clipping; the report and the counts are kept.

        Warns:
            UserWarning: no gradient was seen although the weights changed.
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
        """As `Clipper.state_dict`, including parameters added to the optimizer since the last step."""
        self._follow_optimizers()
        return super().state_dict() | {name: one.state_dict() for name, one in self._after_steps.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `Clipper.load_state_dict`; first add the parameter groups that were added later."""
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
    """The clipper that is attached to an optimizer; None if there is none."""
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
