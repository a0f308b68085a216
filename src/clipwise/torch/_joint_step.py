"""One clip for several optimizers that step one after the other with the gradients of one backward pass."""

from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.amp import GradScaler
from torch.amp.grad_scaler import OptState
from torch.optim import Optimizer

from clipwise.stack import frames_of
from clipwise.torch.engines import make_batch
from clipwise.torch.engines._arrays import array_on


class JointStep:
    """The optimizers that have not stepped yet with gradients that were clipped together.

    Attributes:
        skipped: the step is skipped, so none of them steps.
        bounded: whether weights were clipped since it began.
    """

    def __init__(self) -> None:
        self.skipped = self.bounded = False
        self._waiting: dict[int, list[tuple[Tensor, int]]] = {}
        self._held_back: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def start(self, others: Sequence[Optimizer], *, skipped: bool) -> None:
        """All gradients were just clipped, when another optimizer than these stepped."""
        self.skipped, self.bounded = skipped, False
        self._waiting = {id(one): _gradients(one) for one in others}

    def goes_on(self, optimizer: Optimizer) -> bool:
        """Whether this optimizer steps with gradients that were clipped together with those of the others."""
        clipped = self._waiting.pop(id(optimizer), None)
        if clipped is None:
            return False
        now = _gradients(optimizer)
        return len(now) == len(clipped) and all(
            a is b and version == before for (a, version), (b, before) in zip(now, clipped, strict=True)
        )

    def unscale(self, optimizer: Optimizer, others: Sequence[Optimizer]) -> None:
        """Unscale all gradients, since a gradient scaler unscales only those of the optimizer that steps."""
        scale = getattr(optimizer, "grad_scale", None)
        if scale is not None:  # a fused optimizer would take it off itself
            gradients = [gradient for gradient, _ in _gradients(optimizer)]
            if gradients:
                batch = make_batch(gradients)
                batch.scale_(1.0 / array_on(batch.xp, scale))
            optimizer.grad_scale = None  # type: ignore[attr-defined]
        scaler = _scaler_of_caller()
        if scaler is None:
            return
        for other in others:
            if not _gradients(other):
                continue
            if scaler._per_optimizer_states[id(other)]["stage"] is OptState.READY:
                scaler.unscale_(other)

    def hold_back(self, optimizer: Optimizer) -> None:
        """Remove the gradients: an optimizer does not change a parameter without one, nor its state."""
        held = [(p, p.grad) for p in _parameters(optimizer) if p.grad is not None]
        self._held_back[id(optimizer)] = held
        for parameter, _ in held:
            parameter.grad = None

    def give_back(self, optimizer: Optimizer) -> None:
        """Restore the removed gradients, unless there was a backward pass since (the step had raised)."""
        held = self._held_back.pop(id(optimizer), ())
        if held and not _gradients(optimizer):
            for parameter, gradient in held:
                parameter.grad = gradient


def _parameters(optimizer: Optimizer) -> Iterator[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _gradients(optimizer: Optimizer) -> list[tuple[Tensor, int]]:
    """The gradients with their version, which every change in place raises."""
    return [(p.grad, p.grad._version) for p in _parameters(optimizer) if p.grad is not None]


def _scaler_of_caller() -> GradScaler | None:
    """The gradient scaler whose ``step`` is under way."""
    for frame in frames_of("step"):
        scaler = frame.f_locals.get("self")
        if isinstance(scaler, GradScaler):
            return scaler if scaler.is_enabled() else None
    return None
