"""One step with the gradient of each example clipped by itself: what a training loop calls."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from clipwise.errors import ArgumentError, NonFiniteError, StateError
from clipwise.functional.context import StepContext
from clipwise.functional.examples.options import Options
from clipwise.functional.examples.plan import Clipped, ExamplePlan, fold_rows, joined
from clipwise.functional.examples.report import ExampleReport
from clipwise.functional.layout import Layout
from clipwise.functional.scaling import order_of
from clipwise.namespace import Array, namespace_of
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._slots import slots_of
from clipwise.torch._state import PolicyState
from clipwise.torch.engines._arrays import namespace_on, tensor_of, wide
from clipwise.torch.per_example.batch import Batch, LossFunction
from clipwise.torch.per_example.explicit import Sums
from clipwise.torch.per_example.refusals import refuse_models, refuse_parameters
from clipwise.torch.per_example.routes import Route, Routes

__all__ = ["PerExample"]

ExampleFollower: TypeAlias = Callable[[int, ExampleReport], None]


class PerExample:
    """Clips the gradient of each example before they are summed. Made by `per_example`.

    Attributes:
        options: what it was told.
        report: the `ExampleReport` of the last step, None before the first.
        steps: steps so far.
    """

    def __init__(
        self, model: nn.Module, options: Options, route: Route, generator: torch.Generator | None
    ) -> None:
        if not isinstance(generator, torch.Generator | None):
            raise ArgumentError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        if generator is not None and not options.noise_multiplier:
            raise ArgumentError("generator is for the noise: give noise_multiplier, too")
        refuse_models(model)
        self.model, self.options, self.generator = model, options, generator
        self.report: ExampleReport | None = None
        self.steps = 0
        self._seen: list[Sums] = []
        self._keys: list[Any] | None = []
        self._followers: list[ExampleFollower] = []
        self._lay_out(self._trainable())
        self._routes = Routes(model, route, options.micro_batch, self._plan.orders)
        self._state = PolicyState(self._plan.plan, namespace_on(self._device))
        if options.noise_multiplier:
            options.refuse_unbounded(float(self._sensitivity()))

    @property
    def route(self) -> str | None:
        """How the gradients are found: ``"ghost"``, ``"explicit"`` (`torch.func`) or ``"loop"``.

        None before the first call.
        """
        return self._routes.taken

    # What a training loop calls.

    def backward(
        self,
        loss_fn: LossFunction,
        inputs: Any,
        targets: Any = None,
        *,
        more: bool = False,
        keys: Sequence[Any] | Tensor | None = None,
        scaler: Any = None,
    ) -> Tensor:
        """Compute the losses, and add the clipped gradients to ``p.grad``, as ``loss.backward()`` would.

        Args:
            loss_fn: from the model's outputs, and the targets where they are given, to one loss an example,
                such as ``torch.nn.CrossEntropyLoss(reduction="none")``.
            inputs: of the model: a tensor, a tuple of positional or a mapping of named arguments, each tensor
                with its examples along axis 0.
            targets: given to ``loss_fn``: a tensor or a tree of such.
            more: more examples of the same step follow, in another call. Noise, the thresholds' memory and
                the report wait for the last. For ``loss="mean"`` this takes ``batch_size=``.
            keys: what the examples are called in the report, such as their places in the data set.
            scaler: a `torch.amp.GradScaler`, in place of ``scaler.scale(loss).backward()``; the gradients
                have its scale then, and norms have not.

        Returns:
            The losses, ``(examples,)``, without a graph.

        Raises:
            ArgumentError: the losses are not one for each example, or one depends on other examples; shapes
                do not fit; the route that was asked for cannot be taken.
            NonFiniteError: a gradient is NaN or Inf and ``nonfinite="error"``. ``p.grad`` is as it was.
        """
        if torch.is_inference_mode_enabled():
            raise ArgumentError("torch.inference_mode allows no gradients: call backward outside of it")
        batch = Batch(inputs, targets)
        if more and self.options.loss == "mean" and self.options.batch_size is None:
            raise ArgumentError(
                "a mean over several calls needs batch_size=, the number of examples of all of them"
            )
        if keys is not None and len(keys) != batch.size:
            raise ArgumentError(f"keys must name {batch.size} examples, got {len(keys)}")
        refuse_models(self.model)
        parameters = self._trainable()
        if list(parameters) != [slot.name for slot in self._plan.slots]:
            self._lay_out(parameters, later=True)
            self._state = self._state.carried(self._plan.plan)
            self._routes.forget()
        scale = None if scaler is None else scaler.scale(torch.ones((), device=self._device))
        thresholds = self._thresholds()
        if batch.size:
            with torch.enable_grad():
                sums = self._routes.sums(
                    parameters,
                    loss_fn,
                    batch,
                    partial(self._coefficients, thresholds),
                    scale,
                    drops=self.options.nonfinite == "drop",
                )
        else:  # a batch that was drawn at random may be empty
            empty = torch.zeros(0, len(parameters), dtype=wide(self._device), device=self._device)
            norms = dict.fromkeys(self._plan.orders, empty)
            sums = Sums(torch.zeros(0, device=self._device), norms, [None] * len(parameters))
        if self.options.nonfinite == "error":
            self._refuse_nonfinite(sums)
        self._deposit(parameters, sums.totals, batch.size)
        self._seen.append(sums._replace(totals=[]))
        self._keys = None if keys is None or self._keys is None else [*self._keys, *keys]
        if not more:
            self._finish(parameters, thresholds, scale)
        return sums.losses

    def sensitivity(self) -> float:
        """How far one example can move the gradient that the coming step adds to ``p.grad``, as a 2-norm.

        For the threshold C by global norm that is C with ``loss="sum"`` and C / batch_size with
        ``loss="mean"``, which needs ``batch_size=``; by tensor ``sqrt(sum_k C_k^2)`` in place of C. It is
        that of adding or removing an example; replacing one moves it by up to twice as much. The noise has
        the standard deviation ``noise_multiplier * sensitivity()``.

        Raises:
            ArgumentError: the threshold follows the examples' norms, or ``batch_size`` is not given.
        """
        return float(self._sensitivity())

    def follow(self, follower: ExampleFollower) -> Callable[[], None]:
        """Have a function called after each step with its number, from 1 on, and its `ExampleReport`.

        Returns:
            What ends it.
        """
        self._followers.append(follower)
        return lambda: self._followers.remove(follower) if follower in self._followers else None

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on; `torch.load(..., weights_only=True)` reads it."""
        if self._seen:
            raise StateError("a step is under way (more=True): save after its last call")
        return {"version": 1, "steps": self.steps, "thresholds": self._state.dump()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken.

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

    # How.

    def _trainable(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        refuse_parameters(found)
        return found

    def _lay_out(self, parameters: dict[str, Tensor], *, later: bool = False) -> None:
        self._device = next(iter(parameters.values())).device
        self._plan = ExamplePlan(self.options.clip, slots_of(parameters, self.model, None), later=later)

    def _coefficients(self, thresholds: Sequence[Tensor], norms: dict[float, Tensor]) -> Tensor:
        found: Tensor = self._clipped(thresholds, norms).coefficients
        if self.options.nonfinite == "drop":
            found = found.masked_fill(~_finite(norms)[:, None], 0)
        return found

    def _clipped(self, thresholds: Sequence[Tensor], norms: dict[float, Tensor]) -> Clipped:
        xp = namespace_of(next(iter(norms.values())))
        return self._plan.clipped(xp, norms, thresholds)

    def _thresholds(self) -> tuple[Tensor, ...]:
        xp = self._state.xp
        found = self._plan.thresholds(xp, self._weights(), self._state.on(xp), self._context())
        return tuple(tensor_of(one) for one in found)

    def _weights(self) -> MeasuredTensors | None:
        if "weight_norm" not in self._plan.plan.sees():
            return None
        xp = self._state.xp
        return MeasuredTensors(list(self._trainable().values()), Layout(self._plan.slots, xp))

    def _context(self) -> StepContext:
        return StepContext(step=float(self.steps))

    def _refuse_nonfinite(self, sums: Sums) -> None:
        bad = (~_finite(sums.norms)).nonzero().flatten().tolist()
        if bad:
            raise NonFiniteError(
                f"the gradient of example {bad[0]} holds NaN or Inf ({len(bad)} of"
                f" {len(sums.losses)} examples)"
            )

    def _deposit(self, parameters: dict[str, Tensor], totals: Sequence[Tensor | None], size: int) -> None:
        divisor = 1 if self.options.loss == "sum" else self.options.batch_size or max(1, size)
        for parameter, total in zip(parameters.values(), totals, strict=True):
            if total is None:
                continue
            _accumulate(parameter, total if divisor == 1 else total.div_(divisor))

    def _finish(
        self, parameters: dict[str, Tensor], thresholds: Sequence[Tensor], scale: Tensor | None
    ) -> None:
        """Noise, what the thresholds learn, and the report of a whole step."""
        if self.options.noise_multiplier:
            self._add_noise(parameters, scale)
        seen, self._seen = self._seen, []
        keys, self._keys = self._keys, []
        norms = {p: torch.cat([sums.norms[p] for sums in seen]) for p in self._plan.orders}
        clipped = self._clipped(thresholds, norms)
        xp = self._state.xp
        if len(norms[self._plan.orders[0]]):
            self._state.value = self._plan.learned(
                xp,
                self._weights(),
                self._state.on(xp),
                self._context(),
                [(_as(xp, a), _as(xp, b)) for a, b in zip(clipped.groups, clipped.joints, strict=True)],
                fold_rows,
            )
        self.steps += 1
        order = order_of(self._plan.plan.norm)
        order = order if order in norms else self._plan.orders[0]
        torchs = namespace_of(norms[order])
        self.report = ExampleReport(
            losses=torch.cat([sums.losses for sums in seen]),
            norms=joined(torchs, norms[order], order),
            norms_after=joined(torchs, norms[order] * clipped.coefficients, order),
            threshold=torch.stack([one.min() for one in thresholds]).min(),
            tensor_norms=norms[order],
            names=tuple(parameters),
            keys=keys,
        )
        for follower in tuple(self._followers):
            follower(self.steps, self.report)

    def _sensitivity(self) -> Array:
        divisor = self.options.divisor
        xp = self._state.xp
        thresholds = self._plan.thresholds(xp, self._weights(), self._state.on(xp), self._context())
        return self._plan.sensitivity(xp, thresholds) / divisor

    def _add_noise(self, parameters: dict[str, Tensor], scale: Tensor | None) -> None:
        deviation = tensor_of(self._sensitivity()).to(self._device) * self.options.noise_multiplier
        if scale is not None:
            deviation = deviation * scale
        for parameter in parameters.values():
            dtype = parameter.dtype if parameter.dtype == torch.float64 else torch.float32
            where = parameter.device if self.generator is None else self.generator.device
            noise = torch.randn(parameter.shape, generator=self.generator, device=where, dtype=dtype)
            _accumulate(parameter, noise.to(parameter.device).mul_(deviation.to(dtype)))


def _finite(norms: dict[float, Tensor]) -> Tensor:
    """Which examples have finite norms, ``(examples,)``."""
    return next(iter(norms.values())).isfinite().all(dim=1)


@torch.no_grad()
def _accumulate(parameter: Tensor, value: Tensor) -> None:
    """Add to ``parameter.grad``, as a backward pass does; the value is the gradient where there was none."""
    value = value.to(parameter.dtype)
    if parameter.grad is None:
        parameter.grad = value
    elif parameter.grad.is_sparse:
        parameter.grad = parameter.grad + value
    else:
        parameter.grad.add_(value)


def _as(xp: Any, tensor: Tensor) -> Array:
    return tensor.numpy() if xp.framework == "numpy" else tensor
