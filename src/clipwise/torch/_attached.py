"""The clipper that is attached to optimizers."""

import copy
import weakref
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from clipwise.clip import AnyClip, clip_by_global_norm
from clipwise.config.arguments import as_clip, as_weight_clip
from clipwise.config.spelling import spelled
from clipwise.errors import ArgumentError, StateError
from clipwise.functional.arguments import NonFinite, may_leave_out
from clipwise.functional.slots import UnitAxes
from clipwise.stack import warn
from clipwise.torch import _foreign_clipping
from clipwise.torch._around_steps import AroundSteps
from clipwise.torch._fused import FusedStep
from clipwise.torch._joint_step import JointStep
from clipwise.torch._parameters import of_optimizers
from clipwise.torch._placements import local
from clipwise.torch._process_groups import ProcessGroups
from clipwise.torch._unseen import Unseen
from clipwise.torch._wrappers import chain, unwrapped
from clipwise.torch.hooks import StepHooks
from clipwise.torch.updates import UpdateClipper
from clipwise.torch.weights import WeightClipper


class AttachedClipper(AroundSteps):
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

    def __getstate__(self) -> dict[str, Any]:
        """A copy is a record: it is attached to no optimizer, and detaching it has no effect."""
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

    # Being told by others.

    def clips(self, parameters: Iterable[Tensor]) -> bool:
        """Whether the gradient of any is clipped here."""
        return not {id(p) for p in parameters}.isdisjoint(self._current)

    def hear(self, function: str, threshold: float) -> None:
        """Warn once that the training loop clips these gradients too."""
        _foreign_clipping.stop_listening(self)
        warn(
            f"the loop clips too: {function} to {threshold:g}, and clipwise with {spelled(self.clip)} after"
            " it; keep one of them (a threshold of inf only measures)",
            past=("torch",),
        )


def clipper_of(optimizer: Optimizer) -> "AttachedClipper | None":
    """The clipper that is attached to an optimizer; None if there is none."""
    for hook in getattr(optimizer, "_optimizer_step_pre_hooks", {}).values():
        hooks = getattr(hook, "__self__", None)
        if isinstance(hooks, StepHooks) and isinstance(hooks.owner, AttachedClipper):
            return hooks.owner
    return None
