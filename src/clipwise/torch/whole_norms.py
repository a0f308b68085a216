"""The norms of sharded gradients, read without changing them."""

import math
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from clipwise.clip import Clip
from clipwise.errors import ParameterError
from clipwise.functional.plan import Plan, make_plan
from clipwise.namespace import Array, Namespace
from clipwise.torch._placements import is_sharded
from clipwise.torch._sharded import ShardedTensors
from clipwise.torch._sharded_gradients import ShardedGradients
from clipwise.torch._sharding import sharding_of
from clipwise.torch._slots import slots_of
from clipwise.torch._together import measure_together
from clipwise.torch.engines import AnyBatch, make_batch

__all__ = ["Norms", "WholeNorms", "is_spread", "plain"]


class Norms(NamedTuple):
    """Norms of some gradients.

    Attributes:
        xp: the namespace of the norms.
        names: parameters that have a gradient on any rank.
        norms: ``(names,)``, in float64 where the device has it.
    """

    xp: Namespace
    names: tuple[str, ...]
    norms: Array


class WholeNorms:
    """Reads the p-norm of each whole gradient, ``(sum over all ranks |g|^p)^(1/p)``; replicas count once.

    Every rank creates one and calls `read` at the same steps, even without a gradient. A call takes one
    collective, or two if the order is infinite or above 4. Nothing is changed.

    Args:
        parameters: by name, some of them DTensors; the same on every rank.

    Raises:
        ArgumentError: a placement is not supported, or the ranks have different parameters. All ranks raise.

    ::

        norms = WholeNorms(dict(model.named_parameters()))
        loss.backward()
        found = norms.read(2.0)         # found.names, found.norms
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self._names = tuple(parameters)
        # By their places: names that were found out need not be the same everywhere.
        by_place = {str(place): one for place, one in enumerate(parameters.values())}
        sharding = sharding_of(by_place, slots_of(by_place, None, None), None)
        assert sharding is not None
        self._sharding = sharding
        self._gradients = _Untouched(by_place, sharding)
        self._plans: dict[float, Plan] = {}

    def read(self, order: float) -> Norms | None:
        """The norms of the current gradients; None if no rank has a gradient.

        Args:
            order: p, above 0; ``math.inf`` for the largest magnitude.

        Raises:
            ParameterError: the placements of a gradient differ from those of its parameter, as with a partial
                sum. All ranks raise.
        """
        batch = self._gradients.collect()
        assert batch is not None
        if order not in self._plans:
            self._plans[order] = make_plan(Clip(math.inf, norm=order), self._sharding.slots)
        layout, plan = self._gradients.layout, self._plans[order]
        whole = ShardedTensors(batch.tensors, layout, self._sharding, layout.present, batch)
        here, error = self._gradients.here, self._gradients.error
        found = measure_together(whole, here, plan, None, None, direction=False, error=error).measure
        if found is None:
            return None
        names = tuple(self._names[int(place)] for place in found.layout.names)
        return Norms(found.xp, names, found.tensor_norms(order))


class _Untouched(ShardedGradients):
    """Gradients as they lie there. Partial ones, which would have to be reduced first, are an error."""

    def collect(self, only: Container[int] | None = None) -> AnyBatch | None:
        gradients = [None if own is None else own.grad for own in self._own]
        ways, self.error = self._ways(gradients)
        if any(ways) and self.error is None:
            self.error = ParameterError("gradients are partial sums on each rank, which only a clip reduces")
        there = [self.error is None and gradient is not None for gradient in gradients]
        parts = [
            plain(gradient) if here else none
            for here, gradient, none in zip(there, gradients, self._nothing, strict=True)
        ]
        self.here = there
        return self._laid_out(make_batch(parts))


def plain(gradient: Any) -> Tensor:
    """The local part of a gradient in a form whose entries can be read: itself, or a copy."""
    found: Any = gradient.to_local() if hasattr(gradient, "to_local") else gradient
    if found.is_sparse:
        return found if found.is_coalesced() else found.coalesce()  # type: ignore[no-any-return]
    return found.resolve_conj().resolve_neg()  # type: ignore[no-any-return]


def is_spread(parameter: Any) -> bool:
    """Whether this is a DTensor of which other ranks hold parts, or may hold them."""
    if not is_sharded(parameter):
        return False
    alone = parameter.device_mesh.size() == 1 or all(p.is_replicate() for p in parameter.placements)
    return not alone
