"""Array operations on JAX arrays, traced or not; in float64 if that is enabled, otherwise in float32."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import optimization_barrier

from clipwise.functional import scaling
from clipwise.functional.arithmetic.base import Arithmetic, Axes
from clipwise.namespace import Array, make_namespace

SMALL = 1 << 15
"""Up to so many entries arrays of one shape are measured together: copying them costs less than a kernel."""


class JaxArithmetic(Arithmetic):
    """JAX arrays on any device, sharded or not.

    XLA recomputes cheap values wherever they are used. A value that depends on hundreds of norms is therefore
    kept behind a barrier; otherwise it would be computed, and compiled, once per gradient.
    """

    def __init__(self, like: Array = None) -> None:
        super().__init__(make_namespace("jax", jnp.result_type(float)))

    def cond(self, flag: Array, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        return jax.lax.cond(flag, yes, no)

    def square_sum(self, array: Array, axes: Axes) -> Array:
        return _everywhere(super().square_sum(array, axes))

    def _norm(self, array: Array, p: float, axes: Axes) -> Array:
        return _everywhere(super()._norm(array, p, axes))

    def norms(self, arrays: Sequence[Array], p: float) -> Array:
        return self.unit_norms(arrays, p, [None] * len(arrays))

    def unit_norms(self, arrays: Sequence[Array], p: float, rests: Sequence[Axes]) -> Array:
        groups = _alike(arrays, rests)
        together, axes = [], []
        for group in groups:
            rest = rests[group[0]]
            if len(group) == 1:
                together.append(arrays[group[0]])
                axes.append(rest)
            else:
                together.append(jnp.stack([arrays[place] for place in group]))
                every = tuple(range(arrays[group[0]].ndim)) if rest is None else rest
                axes.append(tuple(axis + 1 for axis in every))
        found = self.norms_along(together, p, axes)
        counts = {
            place: norms.size // len(group)
            for group, norms in zip(groups, found, strict=True)
            for place in group
        }
        joined = jnp.concat([jnp.reshape(norms, (-1,)) for norms in found])
        return optimization_barrier(_in_order(joined, counts))

    def joined(self, units: Array, counts: Sequence[int], p: float) -> Array:
        starts = np.cumsum([0, *counts[:-1]])
        by_count: dict[int, list[int]] = {}
        for place, count in enumerate(counts):
            by_count.setdefault(count, []).append(place)
        found = []
        for count, places in by_count.items():
            rows = units[starts[places][:, None] + np.arange(count)]
            found.append(jax.vmap(lambda row: scaling.combine(self.xp, row, p))(rows))
        whose = {place: 1 for places in by_count.values() for place in places}
        return optimization_barrier(_in_order(jnp.concat(found), whose))

    def settled(self, array: Array) -> Array:
        return optimization_barrier(array)


def _in_order(values: Array, counts: Mapping[int, int]) -> Array:
    """A vector of so many values of each place, put in the order of the places."""
    ends = dict(zip(counts, np.cumsum(list(counts.values())), strict=True))
    order = np.concatenate([np.arange(ends[i] - counts[i], ends[i]) for i in sorted(counts)])
    return values if (np.diff(order) == 1).all() else values[order]


def _alike(arrays: Sequence[Array], axes: Sequence[Axes]) -> list[list[int]]:
    """The places of the arrays that are measured together."""
    groups: dict[Any, list[int]] = {}
    for place, (array, along) in enumerate(zip(arrays, axes, strict=True)):
        # Together, arrays that are sharded in different ways would have to be gathered.
        small = 0 < array.size <= SMALL and array.ndim > 0 and not _may_be_sharded(array)
        key = (array.shape, array.dtype, along) if small else place
        groups.setdefault(key, []).append(place)
    return list(groups.values())


def _may_be_sharded(array: Array) -> bool:
    """Whether an array is on a mesh along which it is sharded, or on which the compiler may have it so."""
    mesh = (
        getattr(getattr(jax.typeof(array), "sharding", None), "mesh", None)
        if hasattr(jax, "typeof")
        else None
    )
    if mesh is None or mesh.empty:
        return False
    manual = jax.sharding.AxisType.Manual  # inside of shard_map, where a shard is an array like any other
    pairs = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return any(size > 1 and kind != manual for size, kind in pairs)


def _spec(array: Array) -> tuple[Any, ...]:
    """The axes of the mesh by which an array is sharded, where its type says so; else nothing."""
    sharding = getattr(jax.typeof(array), "sharding", None) if hasattr(jax, "typeof") else None
    return tuple(axis for axis in getattr(sharding, "spec", ()) if axis is not None)


def _everywhere(array: Array) -> Array:
    """The same small array on all devices: those sharded in different explicit ways cannot be joined."""
    if not _spec(array):
        return array
    # With its mesh by name: none need be the current one.
    whole = jax.sharding.NamedSharding(jax.typeof(array).sharding.mesh, jax.sharding.PartitionSpec())
    return jax.sharding.reshard(array, whole)
