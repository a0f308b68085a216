"""Sharded parameters: an engine works on the local shards, and norms are those of the whole tensors.

Local norms are combined in one place, before any formula uses them, so every clip and every policy works on
shards as it does on one device.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from clipwise.clip import Per
from clipwise.functional.layout import Layout, Places, starts_of
from clipwise.namespace import Array
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._sharding import LocalNorms, Sharding
from clipwise.torch.engines import AnyBatch, reference
from clipwise.torch.engines._arrays import array_on, tensor_of
from clipwise.torch.engines.reference import values_of

__all__ = ["ShardedTensors"]


class Clamped(NamedTuple):
    """The result of a clamping, computed in advance.

    Attributes:
        bounds: low and high.
        after: the 2-norms of the whole tensors.
        beyond: number of entries beyond, over all tensors, 0-d.
    """

    bounds: tuple[float, float]
    after: Tensor
    beyond: Tensor


class ShardedTensors(MeasuredTensors):
    """A `MeasuredTensors` of this rank's shards, with norms of the whole tensors.

    Every rank calls the same methods, since all of them decide from the same numbers; the collectives rely on
    it.

    Args:
        tensors: the local shards, at least one, some of which may be empty.
        layout: of the whole tensors.
        sharding: of all parameters.
        places: indices of these among all parameters.
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
        wide = self.sharding.wide
        return any(wide) and any(wide[place] for place in self.places)

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

    def over_ranks(self, counts: Tensor) -> Tensor:
        """The sum of a count of each of these tensors, of the whole ones from what is here."""
        shares = [self.sharding.shares[place] for place in self.places]
        return self.sharding.summed((counts * counts.new_tensor(shares)).sum().reshape(1))[0]

    def moduli_beside(self, weights: MeasuredTensors, position: int, *, whole: bool) -> tuple[Array, Array]:
        if self.tensors[position].numel():
            return super().moduli_beside(weights, position, whole=whole)
        nothing = self._moduli(self.tensors[position])  # this rank has no gradient, or no entry
        return nothing, nothing

    def bound(self, position: int, limit: Array) -> Array:
        share = self.sharding.shares[self.places[position]]
        return super().bound(position, limit) * share

    def everywhere(self, count: Array, smallest: Array) -> tuple[Array, Array]:
        norms, least = self.local_norms(2.0), tensor_of(smallest).reshape(1)
        (after,), total = self.sharding.whole([norms], tensor_of(count).reshape(1).to(norms.norms))
        assert total is not None
        self.learn(2.0, after)
        return array_on(self.xp, total[0]), array_on(self.xp, -self.sharding.largest(-least)[0])

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
