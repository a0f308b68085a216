"""Sharded gradients as the drop-in replacements pass them to an engine."""

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipwise.errors import ArgumentError
from clipwise.functional import scaling
from clipwise.namespace import Array
from clipwise.torch._placements import refuse_other_layout
from clipwise.torch._sharded_gradients import batch_of, nothing_of
from clipwise.torch._sharding import LocalNorms, Sharding, sharding_by_itself
from clipwise.torch.engines._arrays import array_on, tensor_of

__all__ = ["ShardedBatch"]


class ShardedBatch:
    """An engine's batch of this rank's shards, with the norm of the whole tensors.

    Args:
        parameters: the same on every rank, at least one of them a DTensor; each counts once.
        gradients: their gradients, None where this rank has none.

    Raises:
        ArgumentError: a placement of a parameter is not supported.
        ParameterError: the placements of a gradient differ from those of its parameter.
    """

    odd: Sequence[int] = ()

    def __init__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        if len(set(map(id, parameters))) < len(parameters):
            pairs = list({id(p): (p, g) for p, g in zip(parameters, gradients, strict=True)}.values())
            parameters, gradients = [p for p, _ in pairs], [g for _, g in pairs]
        for place, (parameter, gradient) in enumerate(zip(parameters, gradients, strict=True)):
            if gradient is not None and getattr(gradient, "_spec", None) is not getattr(
                parameter, "_spec", None
            ):
                refuse_other_layout(str(place), parameter, gradient)
        self._sharding = _sharding_of(parameters)
        nothing = [p if g is not None else nothing_of(p) for p, g in zip(parameters, gradients, strict=True)]
        self._batch = batch_of(parameters, gradients, nothing)
        self.tensors, self.xp = self._batch.tensors, self._batch.xp

    @property
    def dtype(self) -> torch.dtype:
        """The widest real dtype among the tensors, at least float32."""
        return self._batch.dtype

    def norm(self, p: float) -> Array:
        """The p-norm of all whole tensors together, 0-d: one collective, two where `Sharding` says so."""
        if p <= 0:
            raise ArgumentError(f"norm_type must be above 0 for parameters spread over ranks, got {p:g}")
        norms = tensor_of(self._batch.norms(p))
        shares = self._sharding.kept((self._sharding, "all"), norms, lambda: [*self._sharding.shares])
        (whole,), _ = self._sharding.whole([LocalNorms(norms, p, shares, any(self._sharding.wide))])
        return scaling.combine(self.xp, array_on(self.xp, whole), p)

    def scale_(self, coefficient: Array) -> None:
        """Multiply in place by one coefficient, 0-d."""
        self._batch.scale_(coefficient)

    def clamp_(self, low: float, high: float, *, report: bool = False) -> Any:
        """Bound every entry in place, which no other rank needs to know."""
        self._batch.clamp_(low, high, report=report)


_last: tuple[list[Any], Sharding] | None = None


def _sharding_of(parameters: Sequence[Tensor]) -> Sharding:
    """Where they lie, which is read anew only where one lies in another way than in the last call.

    Nothing else is kept between two calls, so that ranks are not asked each time whether they agree.
    """
    global _last
    ways = [getattr(p, "_spec", None) or p.dtype for p in parameters]
    last = _last
    if last is not None and len(last[0]) == len(ways) and all(map(operator.is_, last[0], ways)):
        return last[1]
    sharding = sharding_by_itself({str(place): p for place, p in enumerate(parameters)})
    _last = ways, sharding
    return sharding
