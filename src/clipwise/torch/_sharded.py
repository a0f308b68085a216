"""Parameters spread over ranks: an engine works on what is here, and norms are those of the whole.

A local norm becomes the norm of the whole in one place, before any formula sees it; so every clip and every
policy works on shards as it does on one device.
"""

from collections.abc import Container, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from clipwise.clip import Per
from clipwise.errors import ClipwiseError, ParameterError
from clipwise.functional.layout import Layout, Places, starts_of
from clipwise.namespace import Array
from clipwise.torch._census import Census, Ways, census
from clipwise.torch._gradients import Gradients, writable
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._partial import reduce_partial
from clipwise.torch._placements import is_sharded, local, partial_axes
from clipwise.torch._sharding import LocalNorms, Sharding
from clipwise.torch.engines import AnyBatch, make_batch, reference
from clipwise.torch.engines._arrays import array_on, tensor_of
from clipwise.torch.engines.reference import values_of

__all__ = ["ShardedGradients", "ShardedTensors", "held", "nothing_of"]


class ShardedGradients(Gradients):
    """What this rank holds of the gradients of all parameters; an empty tensor where it has none.

    Args:
        parameters: of this rank, by name.
        sharding: of those of all ranks.

    Attributes:
        here: for each parameter of all ranks whether this one has a gradient, from the last `collect`.
        error: what is wrong with a gradient of this rank, which the others are still to hear of; or None.
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
        self.here: list[bool] = []
        self.error = None

    def collect(self, only: Container[int] | None = None) -> AnyBatch | None:
        """One tensor for each parameter. Partial gradients are reduced.

        In the first step in which there is any gradient, one collective tells whether they lie, and where
        they should be the same are the same, on all ranks.

        Raises:
            ParameterError: they are not. Every rank says so, and nothing was touched.
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
        parts = [
            none if own is None or gradient is None else held(own, gradient)
            for own, gradient, none in zip(self._own, gradients, self._nothing, strict=True)
        ]
        batch = make_batch(parts)
        if not self._known or batch.xp is not self.layout.xp:
            self.layout = Layout(self._slots, batch.xp)
            self._known = True
        return batch

    def weights(self) -> list[Tensor]:
        """What this rank holds of the parameters themselves."""
        return [
            none if own is None else local(own) for own, none in zip(self._own, self._nothing, strict=True)
        ]

    def _ways(self, gradients: Sequence[Tensor | None]) -> tuple[list[Ways | None], ClipwiseError | None]:
        """How the gradients lie, and the first error."""
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
        for slot, way, known in zip(self._slots, ways, self._census.ways, strict=True):
            if way is not None and way != (known or ()):
                return ParameterError(
                    f"the gradient of {slot.name!r} lies over the ranks in another way than in the first"
                    " step with gradients (as a partial sum, or not): redistribute it to the parameter's"
                    " placements before the step"
                )
        return None


def nothing_of(parameter: Tensor) -> Tensor:
    """What is here of a gradient that this rank does not have."""
    return torch.empty(0, dtype=parameter.dtype, device=parameter.device)


def held(parameter: Tensor, gradient: Tensor) -> Tensor:
    """What is here of a gradient, in a form that can be changed in place."""
    part = local(gradient)
    if not part.is_sparse and part.is_contiguous() and not (part.is_conj() or part.is_neg()):
        return part
    better = writable(part)
    if better is not part and is_sharded(gradient):
        gradient._local_tensor = better  # type: ignore[attr-defined]
    elif better is not part:
        parameter.grad = better
    return better


class Clamped(NamedTuple):
    """What clamping will have done.

    Attributes:
        bounds: low and high.
        after: the 2-norms of whole tensors.
        beyond: how many entries of all of them were beyond, 0-d.
    """

    bounds: tuple[float, float]
    after: Tensor
    beyond: Tensor


class ShardedTensors(MeasuredTensors):
    """A `MeasuredTensors` of the parts that this rank holds, whose norms are those of the whole tensors.

    What is asked of it is asked on every rank, since all of them decide from the same numbers: that is what
    its collectives rely on.

    Args:
        tensors: the parts that are here, at least one, some of them perhaps empty.
        layout: of the whole tensors.
        sharding: of all parameters.
        places: of these among all parameters.
        batch, scale: as for `MeasuredTensors`.
    """

    def __init__(
        self,
        tensors: Sequence[Tensor],
        layout: Layout,
        sharding: Sharding,
        places: Sequence[int],
        batch: AnyBatch | None = None,
        scale: Tensor | None = None,
    ) -> None:
        super().__init__(tensors, layout, batch, scale)
        self.sharding = sharding
        self.places = places
        self._foreseen: Clamped | None = None

    def _lay_out_anew(self) -> None:
        """The layout is that of the whole, and stays."""

    # Norms.

    def local_norms(self, p: float) -> LocalNorms:
        """The norms of what is here."""
        norms = tensor_of(self.batch.norms(p))
        return LocalNorms(norms, p, self._shares(norms), self._is_wide)

    def _shares(self, like: Tensor) -> Tensor:
        shares = self.sharding.shares
        return self.sharding.kept((self.layout, "tensor"), like, lambda: [shares[i] for i in self.places])

    @property
    def _is_wide(self) -> bool:
        return any(self.sharding.wide[place] for place in self.places)

    def learn(self, p: float, norms: Tensor) -> None:
        """Take these for the norms of the whole tensors, as they are now."""
        self._tensors[p] = self._true(array_on(self.xp, norms))

    def local_unit_norms(self, p: float) -> LocalNorms:
        """What is here adds to the norms of the units of the whole tensors: 0 to those of other ranks."""
        found = tensor_of(self.batch.unit_norms(p))
        norms = found.new_zeros(self.layout.units + 1).index_copy(0, self._unit_index, found)[:-1]
        shares = self.sharding.kept((self.layout, "unit"), norms, self._unit_shares)
        return LocalNorms(norms, p, shares, self._is_wide)

    def _unit_shares(self) -> list[float]:
        pairs = zip(self.places, self.layout.unit_counts, strict=True)
        return [share for place, count in pairs for share in [self.sharding.shares[place]] * count]

    def learn_units(self, p: float, norms: Tensor) -> None:
        """Take these for the norms of the whole units, as they are now."""
        self._units[p] = self._true(array_on(self.xp, norms))

    @cached_property
    def _unit_index(self) -> Tensor:
        """Which unit of the whole each unit of the engine is; one after the last where it is nothing."""
        found: list[int] = []
        starts = starts_of(self.layout.unit_counts)
        for tensor, place, start in zip(self.tensors, self.places, starts, strict=False):
            if not tensor.numel():
                found.append(starts[-1])
            elif tensor.ndim < 2:
                found.append(start)
            else:
                rows = self.sharding.rows[place]
                assert rows is not None
                found.extend(range(start + rows.start, start + rows.stop))
        return torch.tensor(found, device=self.tensors[0].device)

    def _unit_norms(self, p: float) -> Array:
        (whole,), _ = self.sharding.whole([self.local_unit_norms(p)])
        return self._true(array_on(self.xp, whole))

    def _multiply(self, coefficients: Array, per: Per) -> None:
        if per != "unit":
            super()._multiply(coefficients, per)
        elif self.leave is not True:
            every = tensor_of(coefficients)
            if self.leave is not None:
                every = torch.where(tensor_of(self.leave), 1.0, every)
            own = torch.cat([every, every.new_ones(1)])[self._unit_index]
            self.batch.scale_units_(array_on(self.xp, own))

    def _norms(self, p: float) -> Array:
        (whole,), _ = self.sharding.whole([self.local_norms(p)])
        return self._true(array_on(self.xp, whole))

    # What is done to them.

    def local_clamped(self, low: float, high: float) -> tuple[LocalNorms, LocalNorms, Tensor]:
        """What clamping would do to what is here: the 2-norms before and after, and this rank's share of how
        many entries are beyond, 1-d.
        """
        scale = 1.0 if self.loss_scale is None else self.loss_scale
        counts, before, after = map(tensor_of, self.batch.clamped(low * scale, high * scale))
        shares = self._shares(before)
        norms = [LocalNorms(one, 2.0, shares, self._is_wide) for one in (before, after)]
        return norms[0], norms[1], (counts * shares).sum().reshape(1)

    def foresee(self, low: float, high: float, after: Tensor, beyond: Tensor) -> None:
        """Take these for the 2-norms of whole tensors, and the number beyond, if they are clamped next."""
        self._foreseen = Clamped((low, high), after, beyond)

    def forget(self) -> None:
        super().forget()
        self._foreseen = None

    def clamp(self, low: Array, high: Array, *, ordered: bool = False) -> Array:
        if self.leave is True:
            return self.number(0.0)
        foreseen = self._foreseen
        if foreseen is not None and self.leave is None and foreseen.bounds == (float(low), float(high)):
            scale = 1.0 if self.loss_scale is None else self.loss_scale
            self.batch.clamp_(low * scale, high * scale, report=False)
            self.forget()
            self.learn(2.0, foreseen.after)
            return array_on(self.xp, foreseen.beyond)
        counts, _ = self._clamped(low, high)
        norms = self.local_norms(2.0)
        weighted = (tensor_of(counts).to(norms.shares) * norms.shares).sum().reshape(1)
        (after,), beyond = self.sharding.whole([norms], weighted)
        assert beyond is not None
        self.learn(2.0, after)
        return array_on(self.xp, beyond[0])

    def cosine(self, before: Sequence[Tensor], size: Array) -> Array:
        xp = self.xp
        lengths = [xp.asarray(one) for one in (size, self.joint(2.0))]
        sizes = [tensor_of(xp.where((one > 0) & xp.isfinite(one), one, 1.0)) for one in lengths]
        sums = torch.zeros(3, dtype=sizes[0].dtype, device=sizes[0].device)
        for old, new, place in zip(before, self.tensors, self.places, strict=True):
            found = torch.stack(reference.cosine(old, values_of(new), (sizes[0], sizes[1])))
            sums = sums + self.sharding.shares[place] * found.to(sums)
        dot, first, second = self.sharding.summed(sums).unbind()
        both = first.sqrt() * second.sqrt()
        return array_on(xp, torch.where(both > 0, dot / both, torch.ones_like(both)))

    # Some of them.

    def part(self, places: Places) -> "ShardedTensors":
        if len(places) == len(self.layout.all_slots):
            return self
        chosen, index, layout = self.layout.part(places)
        part = self._some(chosen, layout)
        part._learn_part(self, index)
        return part

    def of(self, places: Sequence[int]) -> "ShardedTensors":
        """That of the tensors at these places, as if there were no others."""
        layout = Layout(self.layout.all_slots, self.xp, tuple(places))
        part = self._some(places, layout)
        part._learn_part(self, self.xp.asarray(list(places), dtype=self.xp.int32))
        if self._foreseen is not None:
            part._foreseen = self._foreseen._replace(after=self._foreseen.after[list(places)])
        return part

    def _some(self, positions: Sequence[int], layout: Layout) -> "ShardedTensors":
        tensors = [self.tensors[position] for position in positions]
        part = ShardedTensors(tensors, layout, self.sharding, [self.places[i] for i in positions])
        part.loss_scale = self.loss_scale
        return part
