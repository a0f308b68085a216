"""One step with the gradient of each example clipped by itself: what a training loop calls."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from clipwise.clip import AnyClip
from clipwise.config.arguments import as_example_clip
from clipwise.errors import ArgumentError, NonFiniteError, StateError
from clipwise.functional.context import StepContext
from clipwise.functional.examples.options import Options, Reduction, WhenNonFinite, one_of
from clipwise.functional.examples.plan import Clipped, ExamplePlan, fold_rows, joined
from clipwise.functional.examples.report import ExampleReport
from clipwise.functional.layout import Layout
from clipwise.functional.scaling import order_of
from clipwise.namespace import Array, namespace_of
from clipwise.stack import warn
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._slots import slots_of
from clipwise.torch._state import PolicyState
from clipwise.torch.engines._arrays import namespace_on, tensor_of, wide
from clipwise.torch.per_example.batch import Batch, LossFunction
from clipwise.torch.per_example.check import Alone, alone, differs, evaluated
from clipwise.torch.per_example.explicit import Sums, looped, norms_of, sums_of, vmapped
from clipwise.torch.per_example.ghost import NotFollowed, ghost
from clipwise.torch.per_example.refusals import refuse_models, refuse_parameters

__all__ = ["PerExample", "per_example"]

ExampleFollower: TypeAlias = Callable[[int, ExampleReport], None]
Route: TypeAlias = Literal["auto", "ghost", "explicit"]


class PerExample:
    """Clips the gradient of each example before they are summed. Made by `per_example`.

    Attributes:
        options: what it was told.
        report: the `ExampleReport` of the last step, None before the first.
        steps: steps so far.
        route: how the gradients are found: ``"ghost"``, ``"explicit"`` (`torch.func`) or ``"loop"``; None
            before the first call.
    """

    def __init__(
        self,
        model: nn.Module,
        clip: AnyClip | str | Mapping[str, Any],
        *,
        loss: Reduction = "mean",
        batch_size: int | None = None,
        route: Route = "auto",
        micro_batch: int | None = None,
        nonfinite: WhenNonFinite = "propagate",
        noise_multiplier: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        self.options = Options.checked(
            as_example_clip(clip), loss, batch_size, micro_batch, nonfinite, noise_multiplier
        )
        one_of("route", route, Route)
        if not isinstance(generator, torch.Generator | None):
            raise ArgumentError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        if generator is not None and not self.options.noise_multiplier:
            raise ArgumentError("generator is for the noise: give noise_multiplier, too")
        if route == "explicit":
            self._wanted: tuple[str, ...] = ("explicit", "loop")
        else:
            self._wanted = ("ghost",) if route == "ghost" else ("ghost", "explicit", "loop")
            if micro_batch is not None and route == "ghost":
                raise ArgumentError('micro_batch is for route="explicit"; the ghost route has no use for it')
        refuse_models(model)
        self.model, self.generator = model, generator
        self.report: ExampleReport | None = None
        self.steps = 0
        self.route: str | None = None
        self._checked = False
        self._said: set[str] = set()
        self._seen: list[Sums] = []
        self._keys: list[Any] | None = []
        self._followers: list[ExampleFollower] = []
        self._lay_out(self._trainable())
        self._state = PolicyState(self._plan.plan, namespace_on(self._device))
        if "ghost" in self._wanted and self._plan.orders != (2.0,):
            if route == "ghost":
                raise ArgumentError(
                    f'the ghost route knows 2-norms and "rms" only, and {self.options.clip!r} asks for'
                    ' others: use route="explicit"'
                )
            self._wanted = ("explicit", "loop")
        if self.options.noise_multiplier:
            self.options.refuse_unbounded(float(self._sensitivity()))

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
            self._checked = False
        scale = None if scaler is None else scaler.scale(torch.ones((), device=self._device))
        thresholds = self._thresholds()
        if batch.size:
            with torch.enable_grad():
                sums = self._sums(parameters, loss_fn, batch, thresholds, scale)
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

    def _sums(
        self,
        parameters: dict[str, Tensor],
        loss_fn: LossFunction,
        batch: Batch,
        thresholds: Sequence[Tensor],
        scale: Tensor | None,
    ) -> Sums:
        if not self._checked:
            self._choose(parameters, loss_fn, batch)
            self._checked = batch.size > 1  # one example cannot depend on others
        drops = self.options.nonfinite == "drop"

        def coefficients(norms: dict[float, Tensor]) -> Tensor:
            found: Tensor = self._clipped(thresholds, norms).coefficients
            if drops:
                found = found.masked_fill(~_finite(norms)[:, None], 0)
            return found

        if self.route == "ghost":
            try:
                return ghost(self.model, parameters, loss_fn, batch, coefficients, scale, drops=drops)
            except NotFollowed as error:
                if "explicit" not in self._wanted:
                    raise ArgumentError(str(error)) from error
                self._say(f"{error}: these examples go through torch.func instead")
        if self.route == "loop":
            each = partial(looped, self.model, parameters, loss_fn)
        else:
            each = partial(vmapped, self.model, parameters, loss_fn)
        return sums_of(
            partial(each, scale=scale),
            list(parameters.values()),
            batch,
            self.options.micro_batch,
            self._plan.orders,
            coefficients,
            scale,
            drops=drops,
        )

    def _choose(self, parameters: dict[str, Tensor], loss_fn: LossFunction, batch: Batch) -> None:
        """Take the first route that finds the gradients of two examples as they are alone."""
        told = alone(self.model, parameters, loss_fn, batch)
        reasons = []
        for route in self._wanted:
            reason = None if route == "loop" else self._fails(route, parameters, loss_fn, batch, told)
            if reason is None:
                self.route = route
                break
            if self._wanted == ("ghost",):
                raise ArgumentError(f'route="ghost" is not possible: {reason}')
            reasons.append(reason)
        where = {"explicit": "torch.func", "loop": "one example after the other"}
        for reason in reasons:
            self._say(f"{reason}; the gradients are found by {where[str(self.route)]}")

    def _fails(
        self,
        route: str,
        parameters: dict[str, Tensor],
        loss_fn: LossFunction,
        batch: Batch,
        told: Alone | None,
    ) -> str | None:
        """Why a route cannot be taken; None: it can."""
        some = batch.examples(slice(0, 2)) if told is None else told.batch
        names = list(parameters)
        try:
            with evaluated(self.model, self._device):
                if route == "ghost":
                    norms = ghost(self.model, parameters, loss_fn, some, None, None).norms[2.0]
                else:
                    gradients, _ = vmapped(self.model, parameters, loss_fn, some, None)
                    norms = norms_of(gradients, some.size, 2.0, self._device)
        except NotFollowed as error:
            return str(error)
        except (RuntimeError, NotImplementedError, ValueError) as error:
            first = str(error).partition("\n")[0]
            return f"torch.func does not take this model ({type(error).__name__}: {first})"
        place = None if told is None else differs(norms, told)
        if place is None:
            return None
        return f"the {route} route finds other gradients of {names[place]!r} than the examples have alone"

    def _say(self, what: str) -> None:
        if what not in self._said:
            self._said.add(what)
            warn(f"per_example: {what}")

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


def per_example(
    model: nn.Module,
    clip: AnyClip | str | Mapping[str, Any],
    loss: Reduction = "mean",
    *,
    batch_size: int | None = None,
    route: Route = "auto",
    micro_batch: int | None = None,
    nonfinite: WhenNonFinite = "propagate",
    noise_multiplier: float = 0.0,
    generator: torch.Generator | None = None,
) -> PerExample:
    """Clip the gradient of each example of a batch before they are summed.

    With the gradient ``g_i`` of the loss of example i, ``c_i = min(1, C / ||g_i||)`` and B examples,
    `backward` of what this returns adds ``sum_i c_i g_i`` (``loss="sum"``) or ``1/B sum_i c_i g_i``
    (``loss="mean"``) to ``p.grad``. So no example, mislabelled or broken, moves the gradient by more than
    ``C / B``; clipping the mean makes the whole step shorter, and leaves its direction to that example.

    Args:
        model: any module without BatchNorm in training mode. Parameters that require no gradient are left
            alone.
        clip: by global norm or by tensor, with any threshold that does not follow the loss, or `chain` and
            `by_name` of such; a string or a mapping is read by `clipwise.config.parse`. A threshold that
            learns has one value a step, from the steps before it, and is shown every example's norm; without
            any history nothing is clipped. With `clipwise.thresholds.automatic`,
            ``c_i = size / (||g_i|| + gamma)``.
        loss: whether the clipped gradients are averaged or summed.
        batch_size: what the sum is divided by for ``loss="mean"``; the number of examples of the call
            unless given. For steps of several calls, and for batches of random size.
        route: ``"ghost"`` finds the norms from what goes into and comes back to each layer, and makes no
            per-example gradient of the model; ``"explicit"`` makes them by `torch.func`, a few examples at
            a time; ``"auto"`` takes the first that agrees, on two examples in the first call, with the
            gradients of each alone.
        micro_batch: how many examples at a time ``"explicit"`` takes; by the number of parameters unless
            given.
        nonfinite: examples whose gradient holds NaN or Inf are summed as they are (``"propagate"``), left out
            (``"drop"``), or an error before ``p.grad`` is touched (``"error"``); the last two wait for the
            device.
        noise_multiplier: for DP-SGD, the standard deviation of Gaussian noise over the sensitivity (see
            `PerExample.sensitivity`). It is added once a step, to every parameter. Accounting is not done
            here.
        generator: that the noise is drawn with.

    Raises:
        ArgumentError: the model has a layer that mixes examples, or options do not fit together.
        ParameterError: no parameter requires a gradient, or one is sharded or complex.

    Sources: Goodfellow 2015, arXiv:1510.01799 (norms from activations); Li et al. 2021, arXiv:2110.05679
    (ghost clipping); Bu et al. 2022, arXiv:2210.00038 (one backward pass); Abadi et al. 2016,
    arXiv:1607.00133 (DP-SGD).

    >>> import torch, clipwise
    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> step = clipwise.torch.per_example(model, clipwise.clip_by_global_norm(1.0), loss="sum")
    >>> inputs = torch.tensor([[0.6, 0.8], [30.0, 40.0]])
    >>> losses = step.backward(lambda outputs: outputs.squeeze(1), inputs)
    >>> model.weight.grad  # two unit vectors
    tensor([[1.2000, 1.6000]])
    >>> step.report.largest
    1
    """
    return PerExample(
        model,
        clip,
        loss=loss,
        batch_size=batch_size,
        route=route,
        micro_batch=micro_batch,
        nonfinite=nonfinite,
        noise_multiplier=noise_multiplier,
        generator=generator,
    )


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
