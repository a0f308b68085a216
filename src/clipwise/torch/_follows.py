"""A clipper of the parameters that some optimizers have at the time, and what it knows of these."""

import dataclasses
import weakref

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clipwise.config.spelling import spelled
from clipwise.functional.context import StepContext
from clipwise.functional.slots import Slot
from clipwise.namespace import Namespace
from clipwise.stack import warn
from clipwise.torch._after_step import AfterStep
from clipwise.torch._normalising import normalised_by
from clipwise.torch._parameters import named_by, of_optimizers, refuse_unmade
from clipwise.torch._wrappers import chain
from clipwise.torch.clipper import Clipper
from clipwise.torch.engines import array_on
from clipwise.torch.refusals import refuse_flat_shards
from clipwise.torch.updates import UpdateClipper
from clipwise.torch.weights import WeightClipper


class FollowsOptimizers(Clipper):
    """Takes parameters in that come to its optimizers, and lets go of those that leave.

    Attributes:
        weights, updates: what acts after the steps, None without it.
    """

    weights: WeightClipper | None
    updates: UpdateClipper | None
    _optimizers: list[weakref.ref[Optimizer]]
    _model: nn.Module | None
    _include_normalised: bool
    _current: list[int]

    @property
    def optimizers(self) -> list[Optimizer]:
        """Those that it acts on, as long as they live."""
        return [one for reference in self._optimizers if (one := reference()) is not None]

    @property
    def optimizer(self) -> Optimizer | None:
        """The first optimizer, None after its end."""
        return next(iter(self.optimizers), None)

    @property
    def _after_steps(self) -> dict[str, AfterStep]:
        """What acts after the steps, in this order."""
        every = {"updates": self.updates, "weights": self.weights}
        return {name: one for name, one in every.items() if one is not None}

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
