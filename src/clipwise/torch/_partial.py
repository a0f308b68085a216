"""Gradients that are a partial sum on each rank: reduced once, to lie as their parameters do."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["reduce_partial"]


def reduce_partial(
    parameters: Sequence[Any], gradients: Sequence[Any], ways: Sequence[tuple[str, ...] | None]
) -> list[Any]:
    """The gradients, partial ones reduced and put back: one collective a mesh, placement and dtype.

    Args:
        parameters: DTensors, others, or None.
        gradients: theirs; a rank that has none of a partial one adds 0 to it, and has one afterwards.
        ways: as `partial_axes` says, the same on all ranks.
    """
    from torch.distributed.tensor import DTensor  # which takes long to load, and nobody has without it

    buckets: dict[Any, list[int]] = {}
    for place, (parameter, way) in enumerate(zip(parameters, ways, strict=True)):
        if way and parameter is not None:
            own = gradients[place]
            dtype = _dtype_of(parameter) if own is None else own.dtype
            buckets.setdefault((id(parameter.device_mesh), way, dtype), []).append(place)
    found = list(gradients)
    for (_, way, _), places in buckets.items():
        reduced = _reduced([_part(parameters[i], gradients[i], way) for i in places], way)
        for place, part in zip(places, reduced, strict=True):
            parameter = parameters[place]
            whole = DTensor.from_local(
                part,
                parameter.device_mesh,
                _spread(parameter, way),
                run_check=False,
                shape=parameter.shape,
                stride=parameter.stride(),
            )
            found[place] = parameter.grad = whole.redistribute(placements=parameter.placements)
    return found


def _spread(parameter: Any, way: Sequence[str]) -> list[Any]:
    """How a gradient lies that was reduced, before it is cut into its parameter's shards."""
    from torch.distributed.tensor import Replicate

    return [Replicate() if one else own for one, own in zip(way, parameter.placements, strict=True)]


def _part(parameter: Any, gradient: Any, way: Sequence[str]) -> Any:
    from torch.distributed.tensor import zeros

    if gradient is not None:
        return gradient
    mesh = parameter.device_mesh
    dtype, placements = _dtype_of(parameter), _spread(parameter, way)
    return zeros(parameter.shape, dtype=dtype, device_mesh=mesh, placements=placements)


def _dtype_of(parameter: Any) -> torch.dtype:
    """Of its gradient, where there is none."""
    dtype: torch.dtype = getattr(parameter, "grad_dtype", None) or parameter.dtype
    return dtype


def _reduced(parts: Sequence[Any], way: Sequence[str]) -> list[Tensor]:
    held = [part.to_local().contiguous() for part in parts]
    mesh = parts[0].device_mesh
    bucket = torch.cat([one.reshape(-1) for one in held])
    for axis, one in enumerate(way):
        if one:
            dist.all_reduce(bucket, group=mesh.get_group(axis))
            if one == "avg":
                bucket /= mesh.size(axis)
    pieces = bucket.split([one.numel() for one in held])
    return [piece.view(one.shape) for piece, one in zip(pieces, held, strict=True)]
