"""The gradients of sharded parameters: this rank's part, as an engine reads it."""

import operator
from collections.abc import Container, Mapping, Sequence

import torch
from torch import Tensor

from clipwise.errors import ClipwiseError, ParameterError
from clipwise.functional.layout import Layout, Places
from clipwise.torch._census import Census, Ways, census
from clipwise.torch._gradients import Gradients, writable
from clipwise.torch._partial import reduce_partial
from clipwise.torch._placements import is_sharded, local, partial_axes
from clipwise.torch._sharding import Sharding
from clipwise.torch.engines import AnyBatch, make_batch

__all__ = ["ShardedGradients", "ShardedWeights", "batch_of", "nothing_of"]


class ShardedGradients(Gradients):
    """This rank's part of the gradients of all parameters; an empty tensor where it has none.

    Args:
        parameters: of this rank, by name.
        sharding: of those of all ranks.

    Attributes:
        here: for each parameter of all ranks whether this one has a gradient, from the last `collect`.
        error: a problem with a gradient of this rank that the others do not know yet; or None.
    """

    error: ClipwiseError | None

    def __init__(self, parameters: Mapping[str, Tensor], sharding: Sharding) -> None:
        super().__init__(parameters, sharding.slots)
        self._sharding = sharding
        self._own = [None if one.name is None else parameters[one.name] for one in sharding.entries]
        device = next((p.device for p in parameters.values()), sharding.cover.device)
        self._nothing = [
            torch.empty(0, dtype=entry.dtype, device=device) if own is None else nothing_of(own)
            for entry, own in zip(sharding.entries, self._own, strict=True)
        ]
        self._census: Census | None = None
        self._laid: Places | None = None
        self.here: list[bool] = []
        self.error = None

    def collect(self, only: Container[int] | None = None) -> AnyBatch | None:
        """One tensor per parameter. Partial gradients are reduced.

        In the first step with gradients, one collective checks the placements on all ranks, and that replicas
        have equal gradients.

        Raises:
            ParameterError: a check failed. All ranks raise, and nothing was changed.
        """
        if not self._own:
            return None
        gradients = [None if own is None else own.grad for own in self._own]
        ways, self.error = self._ways(gradients)
        if self._census is None or not self._census.complete:
            self._census = census(self._sharding, self._own, gradients, ways, self.error)
        elif self.error is None:
            self.error = self._changed(ways)
        if self.error is not None:  # others wait for this rank's numbers, and then hear of it
            gradients = [None for _ in gradients]
        if any(self._census.ways):
            gradients = reduce_partial(self._own, gradients, self._census.ways)
        self.here = [gradient is not None for gradient in gradients]
        return self._laid_out(batch_of(self._own, gradients, self._nothing))

    def _laid_out(self, batch: AnyBatch, places: Places | None = None) -> AnyBatch:
        """The batch of the parameters at some places, None for all, whose layout is known from now on."""
        if not self._known or batch.xp is not self.layout.xp or self._laid != places:
            self.layout = Layout(self._slots, batch.xp, places)
            self._laid, self._known = places, True
        return batch

    def weights(self) -> list[Tensor]:
        """What this rank holds of the parameters themselves."""
        return [
            none if own is None else local(own) for own, none in zip(self._own, self._nothing, strict=True)
        ]

    def _ways(self, gradients: Sequence[Tensor | None]) -> tuple[list[Ways | None], ClipwiseError | None]:
        """How the gradients lie, and the first error."""
        wanted = [getattr(own, "_spec", None) for own in self._own]
        found = [self if g is None else getattr(g, "_spec", None) for g in gradients]
        if all(map(operator.is_, wanted, found)):  # all are here, and lie as their parameters
            return [()] * len(gradients), None
        ways: list[Ways | None] = []
        error = None
        for slot, own, gradient in zip(self._slots, self._own, gradients, strict=True):
            way = None
            if gradient is not None:
                try:
                    way = partial_axes(slot.name, own, gradient)
                except ClipwiseError as caught:
                    error = error or caught
            ways.append(way)
        return ways, error

    def _changed(self, ways: Sequence[Ways | None]) -> ClipwiseError | None:
        assert self._census is not None
        if not any(ways) and not any(self._census.ways):
            return None
        for slot, way, known in zip(self._slots, ways, self._census.ways, strict=True):
            if way is not None and way != (known or ()):
                return ParameterError(
                    f"the gradient of {slot.name!r} lies over the ranks in another way than in the first"
                    " step with gradients (as a partial sum, or not): redistribute it to the parameter's"
                    " placements before the step"
                )
        return None


class ShardedWeights(ShardedGradients):
    """What this rank holds of the parameters themselves, in place of their gradients."""

    def collect(self, only: Container[int] | None = None) -> AnyBatch | None:
        places = tuple(i for i, own in enumerate(self._own) if only is None or id(own) in only)
        self.here = [self._own[place] is not None for place in places]
        every = self.weights()
        return self._laid_out(make_batch([every[place] for place in places]), places) if places else None


def nothing_of(parameter: Tensor) -> Tensor:
    """What is here of a gradient that this rank does not have."""
    return torch.empty(0, dtype=parameter.dtype, device=parameter.device)


def batch_of(
    parameters: Sequence[Tensor | None], gradients: Sequence[Tensor | None], nothing: Sequence[Tensor]
) -> AnyBatch:
    """What is here of some gradients, in an engine's hands, in a form that can be changed in place.

    Args:
        parameters: theirs, None where this rank has none.
        gradients: None where this rank has none.
        nothing: what stands for each that is not here.
    """
    parts = [
        none if gradient is None else local(gradient)
        for gradient, none in zip(gradients, nothing, strict=True)
    ]
    batch = make_batch(parts)
    replaced = False
    for place in batch.odd:
        parameter, gradient = parameters[place], gradients[place]
        better = writable(parts[place])
        if better is parts[place] or parameter is None or gradient is None:
            continue
        if is_sharded(gradient):
            gradient._local_tensor = better  # type: ignore[attr-defined]
        else:
            parameter.grad = better
        parts[place], replaced = better, True
    return make_batch(parts) if replaced else batch
