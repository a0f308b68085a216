"""Gradients that are spread over ranks, as the drop-ins ask an engine for them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clipwise.errors import ArgumentError
from clipwise.functional import scaling
from clipwise.namespace import Array
from clipwise.torch._placements import refuse_other_layout
from clipwise.torch._sharded_gradients import held, nothing_of
from clipwise.torch._sharding import LocalNorms, sharding_by_itself
from clipwise.torch.engines import make_batch
from clipwise.torch.engines._arrays import array_on, tensor_of

__all__ = ["ShardedBatch"]


class ShardedBatch:
    """An engine's batch of what this rank holds, whose norm is that of the whole.

    Args:
        parameters: the same ones on every rank, at least one of them a DTensor; each counts once.
        gradients: theirs, None where this rank has none.

    Raises:
        ArgumentError: a parameter is laid out in a way that is not taken.
        ParameterError: a gradient lies over the ranks in another way than its parameter.
    """

    odd: Sequence[int] = ()

    def __init__(self, parameters: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        once = {id(p): (p, g) for p, g in zip(parameters, gradients, strict=True)}
        named = {str(place): pair for place, pair in enumerate(once.values())}
        for name, (parameter, gradient) in named.items():
            if gradient is not None:
                refuse_other_layout(name, parameter, gradient)
        # Nothing is kept between two calls, so that ranks are not asked each time whether they agree.
        self._sharding = sharding_by_itself({name: p for name, (p, _) in named.items()})
        self._batch = make_batch([nothing_of(p) if g is None else held(p, g) for p, g in named.values()])
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
        shares = norms.new_tensor(self._sharding.shares)
        (whole,), _ = self._sharding.whole([LocalNorms(norms, p, shares, any(self._sharding.wide))])
        return scaling.combine(self.xp, array_on(self.xp, whole), p)

    def scale_(self, coefficient: Array) -> None:
        """Multiply in place by one coefficient, 0-d."""
        self._batch.scale_(coefficient)

    def clamp_(self, low: float, high: float, *, report: bool = False) -> Any:
        """Bound every entry in place, which no other rank needs to know."""
        self._batch.clamp_(low, high, report=report)
