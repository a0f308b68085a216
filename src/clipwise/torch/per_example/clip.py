"""The clip of a step: its thresholds, the coefficients that follow from norms, and what is remembered."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from clipwise.errors import NonFiniteError, StateError
from clipwise.functional.context import StepContext
from clipwise.functional.examples.options import Options
from clipwise.functional.examples.plan import Clipped, ExamplePlan, fold_rows
from clipwise.functional.examples.report import ExampleReport
from clipwise.functional.layout import Layout
from clipwise.namespace import Array, namespace_of
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._slots import slots_of
from clipwise.torch._state import PolicyState
from clipwise.torch.engines._arrays import namespace_on, tensor_of
from clipwise.torch.per_example.explicit import Sums

__all__ = ["ExampleClip", "overflowed", "refuse_nonfinite"]


class ExampleClip:
    """A clip laid out over the parameters of a model, and what its thresholds have learned.

    Attributes:
        steps: so far.
        plan: over the parameters.
    """

    def __init__(self, model: nn.Module, options: Options, parameters: dict[str, Tensor]) -> None:
        self._model, self._options = model, options
        self.steps = 0
        self._lay_out(parameters)
        self._state = PolicyState(self.plan.plan, namespace_on(next(iter(parameters.values())).device))

    def _lay_out(self, parameters: dict[str, Tensor], *, later: bool = False) -> None:
        self._parameters = parameters
        self.plan = ExamplePlan(self._options.clip, slots_of(parameters, self._model, None), later=later)

    def knows(self, parameters: dict[str, Tensor]) -> bool:
        """Whether it is laid out over parameters of these names and shapes."""
        known = [(slot.name, slot.shape) for slot in self.plan.slots]
        return known == [(name, tuple(one.shape)) for name, one in parameters.items()]

    def follow(self, parameters: dict[str, Tensor]) -> None:
        """Go on with these parameters. What was learned is carried over by name."""
        if self.knows(parameters):
            self._parameters = parameters
            return
        self._lay_out(parameters, later=True)
        self._state = self._state.carried(self.plan.plan)

    def thresholds(self) -> tuple[Tensor, ...]:
        """Those of the coming step, one for each single clip."""
        return tuple(tensor_of(one) for one in self._thresholds())

    def coefficients(self, thresholds: Sequence[Tensor], norms: dict[float, Tensor]) -> Tensor:
        """Of each example and parameter; 0 for examples that are to be left out."""
        found: Tensor = self._clipped(thresholds, norms).coefficients
        if self._options.nonfinite == "drop":
            found = found.masked_fill(~_finite(norms)[:, None], 0)
        return found

    def report(self, seen: Sequence[Sums], thresholds: Sequence[Tensor], keys: Any) -> ExampleReport:
        """What these thresholds make of all examples of a step."""
        norms = self._joined(seen)
        clipped = self._clipped(thresholds, norms)
        return self.plan.report(
            namespace_of(next(iter(norms.values()))),
            norms,
            clipped.coefficients,
            thresholds,
            losses=torch.cat([sums.losses for sums in seen]),
            keys=keys,
        )

    def learn(self, seen: Sequence[Sums], thresholds: Sequence[Tensor]) -> None:
        """A step is over: the thresholds are shown the norms of all its examples."""
        norms = self._joined(seen)
        if len(norms[self.plan.orders[0]]):
            clipped, xp = self._clipped(thresholds, norms), self._state.xp
            self._state.value = self.plan.learned(
                xp,
                self._weights(),
                self._state.on(xp),
                self._context(),
                [(_as(xp, a), _as(xp, b)) for a, b in zip(clipped.groups, clipped.joints, strict=True)],
                fold_rows,
            )
        self.steps += 1

    def sensitivity(self) -> Array:
        """How much one example can change what the coming step adds to the gradients."""
        divisor = self._options.divisor
        return self.plan.sensitivity(self._state.xp, self._thresholds()) / divisor

    def dump(self) -> dict[str, Any]:
        """The state that the next step depends on."""
        return {"version": 1, "steps": self.steps, "thresholds": self._state.dump()}

    def load(self, state: Any) -> None:
        """Continue from a state that `dump` returned.

        Raises:
            StateError: it was taken with another kind of clip, or with other parameters. Nothing is changed.
        """
        if not isinstance(state, Mapping) or not {"version", "steps", "thresholds"} <= state.keys():
            raise StateError("this is not the state of a PerExample")
        if state["version"] != 1:
            raise StateError(f"the state has version {state['version']!r}; this clipwise reads version 1")
        if isinstance(state["steps"], bool) or not isinstance(state["steps"], int):
            raise StateError(f"steps must be a whole number, got {state['steps']!r}")
        self._state.value = self._state.read(state["thresholds"])
        self.steps = state["steps"]

    def _joined(self, seen: Sequence[Sums]) -> dict[float, Tensor]:
        return {p: torch.cat([sums.norms[p] for sums in seen]) for p in self.plan.orders}

    def _clipped(self, thresholds: Sequence[Tensor], norms: dict[float, Tensor]) -> Clipped:
        return self.plan.clipped(namespace_of(next(iter(norms.values()))), norms, thresholds)

    def _thresholds(self) -> tuple[Array, ...]:
        xp = self._state.xp
        return self.plan.thresholds(xp, self._weights(), self._state.on(xp), self._context())

    def _weights(self) -> MeasuredTensors | None:
        if "weight_norm" not in self.plan.plan.sees():
            return None
        return MeasuredTensors(list(self._parameters.values()), Layout(self.plan.slots, self._state.xp))

    def _context(self) -> StepContext:
        return StepContext(step=float(self.steps))


def overflowed(sums: Sums) -> Tensor:
    """Whether an example of a finite loss has a gradient that is not finite, 0-d."""
    return (sums.losses.isfinite() & ~_finite(sums.norms)).any()


def refuse_nonfinite(sums: Sums) -> None:
    """Raise NonFiniteError if the gradient of an example holds NaN or Inf."""
    bad = (~_finite(sums.norms)).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteError(
            f"the gradient of example {bad[0]} holds NaN or Inf ({len(bad)} of {len(sums.losses)} examples)"
        )


def _finite(norms: dict[float, Tensor]) -> Tensor:
    """Which examples have finite norms, ``(examples,)``."""
    return next(iter(norms.values())).isfinite().all(dim=1)


def _as(xp: Any, tensor: Tensor) -> Array:
    return tensor.numpy() if xp.framework == "numpy" else tensor
