"""One step with the gradient of each example clipped by itself: what a training loop calls."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from clipwise.errors import ArgumentError, StateError
from clipwise.functional.examples.options import Options
from clipwise.functional.examples.report import ExampleReport
from clipwise.torch.engines._arrays import tensor_of, wide
from clipwise.torch.per_example.batch import Batch, LossFunction
from clipwise.torch.per_example.check import buffers_kept
from clipwise.torch.per_example.clip import ExampleClip, overflowed, refuse_nonfinite
from clipwise.torch.per_example.deposit import add_noise, deposit, draw_on
from clipwise.torch.per_example.explicit import Coefficients, Sums
from clipwise.torch.per_example.refusals import refuse_models, refuse_parameters
from clipwise.torch.per_example.routes import Route, Routes

__all__ = ["PerExample"]

ExampleFollower: TypeAlias = Callable[[int, ExampleReport], None]


class PerExample:
    """Clips the gradient of each example before they are summed. Created by `per_example`.

    Attributes:
        options: the options.
        report: the `ExampleReport` of the last step; None before the first.
        steps: number of steps.
    """

    def __init__(
        self, model: nn.Module, options: Options, route: Route, generator: torch.Generator | None
    ) -> None:
        if not isinstance(generator, torch.Generator | None):
            raise ArgumentError(f"generator must be a torch.Generator, got {type(generator).__name__}")
        if generator is not None and not options.noise_multiplier:
            raise ArgumentError("generator is for the noise: also pass noise_multiplier")
        refuse_models(model)
        self.model, self.options, self.generator = model, options, generator
        self.report: ExampleReport | None = None
        self._seen: list[Sums] = []
        self._keys: list[Any] | None = []
        self._followers: list[ExampleFollower] = []
        self._clip = ExampleClip(model, options, self._trainable())
        self._routes = Routes(model, route, options.micro_batch, self._clip.plan.orders)
        self._refuse_unbounded()

    @property
    def steps(self) -> int:
        """Steps so far."""
        return self._clip.steps

    @property
    def route(self) -> str | None:
        """How gradients are computed: ``"ghost"``, ``"explicit"`` (`torch.func`) or ``"loop"``.

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
            loss_fn: a function of the model's outputs, and of the targets if there are any, that returns one
                loss per example, such as ``torch.nn.CrossEntropyLoss(reduction="none")``.
            inputs: the model's inputs: a tensor, a tuple of positional arguments or a mapping of keyword
                arguments. Each tensor has the examples along axis 0.
            targets: second argument of ``loss_fn``: a tensor, or a tree of tensors.
            more: True if another call adds more examples to the same step. Noise is added, thresholds are
                updated and the report is made in the last call, with ``more=False``. With ``loss="mean"``
                this requires ``batch_size``.
            keys: names of the examples for the report, such as their indices in the data set.
            scaler: a `torch.amp.GradScaler`; use this instead of ``scaler.scale(loss).backward()``. The
                gradients in ``p.grad`` are then scaled; norms and thresholds are not.

        An error while the gradients are computed ends a step of several calls: set ``p.grad`` to zero and
        begin it again.

        Returns:
            The losses, ``(examples,)``, detached from the graph.

        Raises:
            ArgumentError: ``loss_fn`` does not return one loss per example, a loss depends on other examples,
                shapes do not match, or the requested route is not possible.
            NonFiniteError: a gradient holds NaN or Inf and ``nonfinite="error"``; ``p.grad`` is unchanged.
            StateError: the parameters that require a gradient have changed within a step (``more=True``).
        """
        batch = _checked(inputs, targets, keys)
        if more and self.options.loss == "mean" and self.options.batch_size is None:
            raise ArgumentError("a mean over several calls needs batch_size=, the total number of examples")
        try:
            return self._backward(loss_fn, batch, more, keys, scaler)
        except BaseException:
            self._begin_anew()
            raise

    def _backward(
        self,
        loss_fn: LossFunction,
        batch: Batch,
        more: bool,
        keys: Sequence[Any] | Tensor | None,
        scaler: Any,
    ) -> Tensor:
        parameters = self._ready()
        device = next(iter(parameters.values())).device
        scale = None if scaler is None else scaler.scale(torch.ones((), device=device))
        thresholds = self._clip.thresholds()
        coefficients = partial(self._clip.coefficients, thresholds)
        sums = self._sums(parameters, loss_fn, batch, coefficients, scale)
        if self.options.nonfinite == "error":
            refuse_nonfinite(sums)
        divisor = 1 if self.options.loss == "sum" else self.options.batch_size or max(1, batch.size)
        # The scaler has to see what its scale has made overflow, and not only that it was left out.
        hidden = scale is not None and self.options.nonfinite == "drop"
        deposit(parameters, sums.totals, divisor, overflowed(sums) if hidden else None)
        self._seen.append(sums._replace(totals=[]))
        self._keys = None if keys is None or self._keys is None else [*self._keys, *keys]
        if not more:
            self._finish(parameters, thresholds, scale)
        return sums.losses

    def explain(
        self,
        loss_fn: LossFunction,
        inputs: Any,
        targets: Any = None,
        *,
        keys: Sequence[Any] | Tensor | None = None,
    ) -> ExampleReport:
        """Measure the norms of a batch's examples, as `backward` would report them, without side effects.

        This finds the example that made the gradient of a batch large, also in a loop without per-example
        clipping. ``p.grad``, thresholds, `steps`, `report`, what the forward pass writes into buffers and the
        state of the random number generators do not change. Arguments and errors are those of `backward`.

        Returns:
            An `ExampleReport`.

        >>> import torch, clipwise
        >>> model = torch.nn.Linear(2, 1)
        >>> step = clipwise.torch.per_example(model, clipwise.clip_by_global_norm(1.0))
        >>> batch = torch.tensor([[0.1, 0.2], [30.0, 40.0], [0.3, 0.1]])
        >>> step.explain(lambda outputs: outputs.squeeze(1), batch, keys=["a", "b", "c"]).examples(1)[0][0]
        'b'
        """
        batch = _checked(inputs, targets, keys)
        parameters = self._ready()
        device = next(iter(parameters.values())).device
        thresholds = self._clip.thresholds()
        with torch.random.fork_rng([device] if device.type == "cuda" else []), buffers_kept(self.model):
            sums = self._sums(parameters, loss_fn, batch, None, None)
        return self._clip.report([sums], thresholds, None if keys is None else list(keys))

    def sensitivity(self) -> float:
        """How much one example can change the gradient that the coming step adds to ``p.grad``, as a 2-norm.

        For a global norm of C it is C with ``loss="sum"`` and C / batch_size with ``loss="mean"``, which
        needs ``batch_size=``; per tensor it is ``sqrt(sum_k C_k^2)`` instead of C. This is for adding or
        removing an example; replacing one changes the gradient by up to twice as much. The noise has the
        standard deviation ``noise_multiplier * sensitivity()``.

        Raises:
            ArgumentError: the threshold follows the examples' norms, or ``batch_size`` is not given.
        """
        return float(self._clip.sensitivity())

    def follow(self, follower: ExampleFollower) -> Callable[[], None]:
        """Register a function that is called after each step with its number and its `ExampleReport`.

        Returns:
            A function that unregisters it.
        """
        self._followers.append(follower)
        return lambda: self._followers.remove(follower) if follower in self._followers else None

    # Checkpoints.

    def state_dict(self) -> dict[str, Any]:
        """The state that the next step depends on; `torch.load(..., weights_only=True)` can read it."""
        if self._seen:
            raise StateError("a step is not complete (more=True): save after its last call")
        drawn = None if self.generator is None else self.generator.get_state()
        return {**self._clip.dump(), "generator": drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`. A step that is not complete is forgotten.

        Raises:
            StateError: the state belongs to another kind of clip or to other parameters, or it holds the
                state of a generator, and there is none here that can take it. Nothing is changed.
        """
        drawn = state.get("generator") if isinstance(state, Mapping) else None
        before = draw_on(self.generator, drawn)
        try:
            self._clip.load(state)
        except StateError:
            draw_on(self.generator, before)
            raise
        self._begin_anew()

    def _begin_anew(self) -> None:
        """Forget the calls of a step that is not complete."""
        self._seen, self._keys = [], []

    # How.

    def _trainable(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        refuse_parameters(found)
        return found

    def _ready(self) -> dict[str, Tensor]:
        """The parameters, which the clip follows."""
        refuse_models(self.model)
        parameters = self._trainable()
        others = not self._clip.knows(parameters)
        if others and self._seen:
            raise StateError(
                "the parameters that require a gradient have changed within a step of several calls"
                " (more=True)"
            )
        self._clip.follow(parameters)
        if others:
            self._routes.forget()
            self._bounded = False
        if not self._bounded:
            self._refuse_unbounded()
        return parameters

    def _refuse_unbounded(self) -> None:
        """ArgumentError for noise if the clip does not bound every example."""
        if self.options.noise_multiplier:
            self.options.refuse_unbounded(math.isfinite(self.sensitivity()))
        self._bounded = True

    def _sums(
        self,
        parameters: dict[str, Tensor],
        loss_fn: LossFunction,
        batch: Batch,
        coefficients: Coefficients | None,
        scale: Tensor | None,
    ) -> Sums:
        if batch.size:
            with torch.enable_grad():
                return self._routes.sums(
                    parameters,
                    loss_fn,
                    batch,
                    coefficients,
                    scale,
                    drops=self.options.nonfinite == "drop",
                )
        # A batch that was drawn at random may be empty.
        device = next(iter(parameters.values())).device
        empty = torch.zeros(0, len(parameters), dtype=wide(device), device=device)
        norms = dict.fromkeys(self._clip.plan.orders, empty)
        return Sums(torch.zeros(0, device=device), norms, [None] * len(parameters))

    def _finish(
        self, parameters: dict[str, Tensor], thresholds: Sequence[Tensor], scale: Tensor | None
    ) -> None:
        """Noise, what the thresholds learn, and the report of a whole step."""
        if self.options.noise_multiplier:
            device = next(iter(parameters.values())).device
            deviation = tensor_of(self._clip.sensitivity()).to(device) * self.options.noise_multiplier
            add_noise(parameters, deviation if scale is None else deviation * scale, self.generator)
        seen, keys = self._seen, self._keys
        self._begin_anew()
        self._clip.learn(seen, thresholds)
        self.report = self._clip.report(seen, thresholds, keys)
        for follower in tuple(self._followers):
            follower(self.steps, self.report)


def _checked(inputs: Any, targets: Any, keys: Sequence[Any] | Tensor | None) -> Batch:
    if torch.is_inference_mode_enabled():
        raise ArgumentError("torch.inference_mode allows no gradients: call this outside it")
    batch = Batch(inputs, targets)
    if keys is not None and len(keys) != batch.size:
        raise ArgumentError(f"keys must name {batch.size} examples, got {len(keys)}")
    return batch
