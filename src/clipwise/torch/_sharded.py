"""Parameters spread over ranks: an engine works on what is here, and norms are those of the whole.

A local norm becomes the norm of the whole in one place, before any formula sees it; so every clip and every
policy works on shards as it does on one device.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from clipwise.errors import ArgumentError
from clipwise.functional.layout import Layout, Places
from clipwise.functional.plan import Plan
from clipwise.functional.scaling import order_of
from clipwise.functional.slots import Slot
from clipwise.namespace import Array
from clipwise.torch._gradients import Gradients, writable
from clipwise.torch._measure import MeasuredTensors
from clipwise.torch._sharding import LocalNorms, Sharding, is_sharded, local, refuse_other_layout
from clipwise.torch.engines import AnyBatch, make_batch, reference
from clipwise.torch.engines._arrays import array_on, tensor_of
from clipwise.torch.engines.reference import values_of

__all__ = [
    "ShardedGradients",
    "ShardedTensors",
    "Together",
    "held",
    "measure_together",
    "orders_of",
    "refuse_on_shards",
    "weight_orders_of",
]


class ShardedGradients(Gradients):
    """What this rank holds of the gradients of some parameters; an empty tensor where it has none.

    Args:
        parameters: by name, in the order of the slots.
        slots: of the whole parameters.

    Attributes:
        here: for each parameter whether this rank has a gradient, from the last `collect`.
    """

    def __init__(self, parameters: Mapping[str, Tensor], slots: Sequence[Slot]) -> None:
        super().__init__(parameters, slots)
        self._names = list(parameters)
        self.here: list[bool] = []

    def collect(self, only: Container[int] | None = None) -> AnyBatch | None:
        """One tensor for each parameter.

        Raises:
            ParameterError: a gradient lies over the ranks in another way than its parameter.
        """
        if not self._parameters:
            return None
        gradients = [p.grad for p in self._parameters]
        for name, parameter, gradient in zip(self._names, self._parameters, gradients, strict=True):
            if gradient is not None:
                refuse_other_layout(name, parameter, gradient)
        self.here = [gradient is not None for gradient in gradients]
        parts = [held(p, g) for p, g in zip(self._parameters, gradients, strict=True)]
        batch = make_batch(parts)
        if not self._known or batch.xp is not self.layout.xp:
            self.layout = Layout(self._slots, batch.xp)
            self._known = True
        return batch


def held(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    """What is here of a gradient, in a form that can be changed in place."""
    if gradient is None:
        return torch.empty(0, dtype=parameter.dtype, device=parameter.device)
    part = local(gradient)
    if not part.is_sparse and part.is_contiguous() and not (part.is_conj() or part.is_neg()):
        return part
    better = writable(part)
    if better is not part and is_sharded(gradient):
        gradient._local_tensor = better  # type: ignore[attr-defined]
    elif better is not part:
        parameter.grad = better
    return better


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

    def _lay_out_anew(self) -> None:
        """The layout is that of the whole, and stays."""

    # Norms.

    def local_norms(self, p: float) -> LocalNorms:
        """The norms of what is here."""
        norms = tensor_of(self.batch.norms(p))
        shares = norms.new_tensor([self.sharding.shares[place] for place in self.places])
        return LocalNorms(norms, p, shares, any(self.sharding.wide[place] for place in self.places))

    def learn(self, p: float, norms: Tensor) -> None:
        """Take these for the norms of the whole tensors, as they are now."""
        self._tensors[p] = self._true(array_on(self.xp, norms))

    def _norms(self, p: float) -> Array:
        (whole,), _ = self.sharding.whole([self.local_norms(p)])
        return self._true(array_on(self.xp, whole))

    # What is done to them.

    def clamp(self, low: Array, high: Array, *, ordered: bool = False) -> Array:
        if self.leave is True:
            return self.number(0.0)
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
        return part

    def _some(self, positions: Sequence[int], layout: Layout) -> "ShardedTensors":
        tensors = [self.tensors[position] for position in positions]
        part = ShardedTensors(tensors, layout, self.sharding, [self.places[i] for i in positions])
        part.loss_scale = self.loss_scale
        return part


class Together(NamedTuple):
    """What the first collective of a step tells.

    Attributes:
        measure: of the gradients; None: no rank has any.
        loss: the mean over the ranks that know one; None: none does.
    """

    measure: ShardedTensors | None
    loss: Array | None


def orders_of(plan: Plan, *, direction: bool) -> list[float]:
    """The orders of all norms that a plan begins with."""
    found = {order_of(plan.norm), *(order_of(stage.clip.norm) for stage in plan.stages())}
    if direction or any(stage.clip.per == "element" for stage in plan.stages()):
        found.add(2.0)
    return sorted(found)


def weight_orders_of(plan: Plan) -> list[float]:
    """The orders of all norms of weights that a plan asks for."""
    return sorted(
        {order_of(stage.clip.norm) for stage in plan.stages() if "weight_norm" in stage.thresholds.sees}
    )


def refuse_on_shards(plan: Plan, slots: Sequence[Slot]) -> None:
    """ArgumentError if a plan does what is not done yet to parameters that are spread over ranks."""
    for stage in plan.stages():
        if stage.clip.per == "unit":
            raise ArgumentError(
                "per='unit' does not take parameters that are spread over ranks (DTensor) yet:"
                " use per='tensor'"
            )
        if stage.thresholds.by_entry:
            raise ArgumentError(
                f"{stage.thresholds.policy!r} with per='element' does not take parameters that are spread"
                " over ranks (DTensor) yet: use per='tensor'"
            )


def measure_together(
    measure: ShardedTensors,
    here: Sequence[bool],
    orders: Iterable[float],
    weights: ShardedTensors | None,
    weight_orders: Iterable[float],
    loss: Array | None,
) -> Together:
    """Make all norms that a step begins with whole, in one collective.

    Args:
        measure: of the gradients of all parameters.
        here: which of them this rank has.
        orders: of their norms.
        weights, weight_orders: the same of the parameters, where a threshold looks at them.
        loss: of this rank.
    """
    wanted = [(measure, p) for p in orders]
    if weights is not None:
        wanted += [(weights, p) for p in weight_orders]
    parts = [one.local_norms(p) for one, p in wanted]
    heard = [0.0, 0.0] if loss is None else [1.0, 1.0]
    extra = parts[0].norms.new_tensor([*map(float, here), *heard])
    if loss is not None:
        extra[-2] = tensor_of(loss)
    norms, total = measure.sharding.whole(parts, extra)
    assert total is not None
    for (one, p), whole in zip(wanted, norms, strict=True):
        one.learn(p, whole)
    # A rank that has everything knows that everything is there, and need not wait for the device to say so.
    known = loss is not None or float(total[-1]) > 0
    mean = array_on(measure.xp, total[-2] / total[-1]) if known else None
    if all(here):
        return Together(measure, mean)
    there = [place for place, count in enumerate(total[:-2].tolist()) if count > 0]
    if len(there) == len(here):
        return Together(measure, mean)
    return Together(measure.of(there) if there else None, mean)
