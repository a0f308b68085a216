"""The current gradients, as an engine reads them."""

from collections.abc import Container, Mapping, Sequence
from typing import Any

from torch import Tensor

from clipwise.functional.layout import Layout
from clipwise.functional.slots import Slot
from clipwise.torch._slots import layout_of
from clipwise.torch._traced import Traced
from clipwise.torch.engines import AnyBatch, gather, make_batch


class Gradients:
    """Collects the gradients of some parameters, and caches what does not change between steps.

    Args:
        parameters: by name, in the order of the slots.
        slots: their slots.

    Attributes:
        layout: layout of the gradients at the last `collect`; the same object while nothing changes.
    """

    layout: Layout

    def __init__(self, parameters: Mapping[str, Tensor], slots: Sequence[Slot]) -> None:
        self._slots = slots
        self._parameters = list(parameters.values())
        self._places: list[int] | None = None
        self._known = False

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_known": False}

    def collect(self, only: Container[int] | None = None) -> AnyBatch | None:
        """The current gradients; None if there are none. No reference is kept, so they are freed as usual.

        Args:
            only: ids of the parameters to use; None: all.
        """
        places, batch = self._take(only)
        if batch is None:
            return None
        # A parameter whose data was exchanged for data of another shape keeps its identity: ask for the size.
        same = self._known and places == self._places and batch.xp is self.layout.xp
        if not same or batch.entries != self.layout.entries:
            present = None if places is None else tuple(places)
            self.layout = layout_of(batch.tensors, self._slots, batch.xp, present)
            self._places, self._known = places, True
        return batch

    def _take(self, only: Container[int] | None) -> tuple[list[int] | None, AnyBatch | None]:
        places, batch = gather(self._parameters)
        if batch is not None and make_writable(self._parameters, batch):
            places, batch = gather(self._parameters)
        return places, batch


class Weights(Gradients):
    """The parameters themselves in place of their gradients."""

    def _take(self, only: Container[int] | None) -> tuple[list[int] | None, AnyBatch | None]:
        if only is None:
            return None, make_batch(self._parameters) if self._parameters else None
        places = [place for place, p in enumerate(self._parameters) if id(p) in only]
        return places, make_batch([self._parameters[place] for place in places]) if places else None


def make_writable(parameters: list[Tensor], batch: AnyBatch | Traced) -> bool:
    """Replace gradients that cannot be changed in place, in the parameters' ``grad``.

    Sparse ones are coalesced; those whose entries share memory, and lazily conjugated or negated ones, are
    copied.

    Returns:
        Whether any was replaced.
    """
    odd = {id(batch.tensors[i]) for i in batch.odd}
    replaced = False
    for parameter in parameters if odd else ():
        gradient = parameter.grad
        if gradient is None or id(gradient) not in odd:
            continue
        better = writable(gradient)
        if better is not gradient:
            parameter.grad, replaced = better, True
    return replaced


def writable(gradient: Tensor) -> Tensor:
    """The gradient in a form that can be changed in place: itself if possible."""
    if gradient.is_sparse:
        return gradient if gradient.is_coalesced() else gradient.coalesce()
    plain = gradient.resolve_conj().resolve_neg()
    return plain.contiguous() if _overlaps(plain) else plain


def _overlaps(tensor: Tensor) -> bool:
    """Whether several entries may share one memory, as after ``expand`` or ``unfold``."""
    reach = 0
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride <= reach:
            return True
        reach += (size - 1) * stride
    return False
