"""The gradients that are there in this step, in an engine's hands."""

from collections.abc import Container, Mapping
from typing import Any

from torch import Tensor

from clipwise.torch._layout import Layout
from clipwise.torch._units import Units
from clipwise.torch.engines import AnyBatch, gather, make_batch

__all__ = ["Gradients", "Weights", "make_writable"]


class Gradients:
    """Collects the gradients of some parameters, and keeps what stays the same from step to step.

    Args:
        parameters: by name, in a fixed order.
        units: of them.

    Attributes:
        names: of the parameters that had a gradient at the last `collect`; the same tuple while that is so.
        layout: of the gradients.
    """

    names: tuple[str, ...]
    layout: Layout

    def __init__(self, parameters: Mapping[str, Tensor], units: Units) -> None:
        self._names = tuple(parameters)
        self._parameters = list(parameters.values())
        self._ways = units.ways(self._parameters)
        self._places: list[int] | None = None
        self._known = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_known": False}

    def collect(self) -> AnyBatch | None:
        """The gradients as they are now; None if there are none. Kept by nobody: they are freed as ever."""
        places, batch = self._take()
        if batch is None:
            return None
        # A parameter whose data was exchanged for data of another shape keeps its identity: ask for the size.
        same = self._known and places == self._places and batch.xp is self.layout.xp
        if not same or batch.entries != self.layout.entries:
            self.names = self._names if places is None else tuple(self._names[i] for i in places)
            ways = self._ways if places is None else [self._ways[i] for i in places]
            self.layout = Layout(batch.tensors, batch.xp, ways)
            self._places, self._known = places, True
        return batch

    def _take(self) -> tuple[list[int] | None, AnyBatch | None]:
        places, batch = gather(self._parameters)
        if batch is not None and make_writable(self._parameters, batch):
            places, batch = gather(self._parameters)
        return places, batch


class Weights(Gradients):
    """The parameters themselves in the place of their gradients: all, or those whose ids are in ``only``."""

    only: Container[int] | None = None

    def _take(self) -> tuple[list[int] | None, AnyBatch | None]:
        if self.only is None:
            return None, make_batch(self._parameters) if self._parameters else None
        places = [place for place, p in enumerate(self._parameters) if id(p) in self.only]
        return places, make_batch([self._parameters[place] for place in places]) if places else None


def make_writable(parameters: list[Tensor], batch: AnyBatch) -> bool:
    """Bring gradients into a form that can be changed in place: in the parameters' ``grad``.

    Sparse ones are coalesced; those whose entries share memory, and lazily conjugated or negated ones,
    are copied.

    Returns:
        Whether any was replaced.
    """
    odd = {id(batch.tensors[i]) for i in batch.odd}
    replaced = False
    for parameter in parameters if odd else ():
        gradient = parameter.grad
        if gradient is None or id(gradient) not in odd:
            continue
        if gradient.is_sparse:
            writable = gradient if gradient.is_coalesced() else gradient.coalesce()
        else:
            writable = gradient.resolve_conj().resolve_neg()
            writable = writable.contiguous() if _overlaps(writable) else writable
        if writable is not gradient:
            parameter.grad, replaced = writable, True
    return replaced


def _overlaps(tensor: Tensor) -> bool:
    """Whether several entries may share one memory, as after ``expand`` or ``unfold``."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += (size - 1) * stride
    return False
