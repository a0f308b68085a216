"""The parameters of a model as slots: along which axes their units lie, and views that show them as rows.

Units lie along axis 0 of a weight, and a vector is one unit, unless its layer or the user says otherwise.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor, nn

from clipwise.errors import ArgumentError
from clipwise.functional.layout import Layout, Places
from clipwise.functional.slots import Slot, UnitAxes, make_slots
from clipwise.namespace import Namespace
from clipwise.torch._parameters import embedding_weights
from clipwise.torch.engines.reference import values_of


def slots_of(
    parameters: Mapping[str, Tensor],
    model: nn.Module | None,
    unit_axes: UnitAxes | None,
    *,
    later: bool = False,
) -> tuple[Slot, ...]:
    """The slots of parameters by name; a transposed convolution of the model says where its units lie.

    Args:
        unit_axes: what the user says, by shell patterns of names; the first that matches wins.
        later: these came after others, so not every pattern has to match one of them.

    Raises:
        ArgumentError: ``unit_axes`` is no mapping, or an axis is none, or not one of the weight it is for.
        ParameterError: a pattern matches no parameter.
    """
    if not isinstance(unit_axes, Mapping | None):
        raise ArgumentError(
            f"unit_axes must map patterns of names to axes, such as {{'*.weight': 1}}, got {unit_axes!r}"
        )
    said = dict(unit_axes or {})
    if later:
        said = {p: axes for p, axes in said.items() if any(fnmatchcase(name, p) for name in parameters)}
    layers, embeddings = _transposed(model), embedding_weights(model)
    shapes = [(name, tuple(p.shape)) for name, p in parameters.items()]
    found = []
    for slot in make_slots(shapes, said, dict.fromkeys(parameters, (0,))):
        parameter = parameters[slot.name]
        told = any(fnmatchcase(slot.name, pattern) for pattern in said)
        rows = None if told else layers.get(id(parameter))
        if rows is not None:
            slot = dataclasses.replace(slot, axes=rows.axes, groups=rows.groups)
        found.append(dataclasses.replace(slot, embedding=id(parameter) in embeddings))
    return tuple(found)


def layout_of(
    tensors: Sequence[Tensor], slots: Sequence[Slot], xp: Namespace, present: Places | None = None
) -> Layout:
    """The layout of tensors of some slots, by the shapes that they have now.

    The data of a parameter may have been exchanged for some of another shape.
    """
    own = list(slots)
    for tensor, place in zip(tensors, range(len(own)) if present is None else present, strict=True):
        if own[place].shape != tensor.shape:
            own[place] = _reshaped(own[place], tuple(tensor.shape))
    return Layout(own, xp, present)


def _reshaped(slot: Slot, shape: tuple[int, ...]) -> Slot:
    axes = ((0,) if len(shape) > 1 else ()) if slot.has_rows else slot.axes
    return dataclasses.replace(slot, shape=shape, axes=axes)


def unit_views(tensors: Iterable[Tensor], slots: Iterable[Slot]) -> list[Tensor]:
    """Views whose units lie along axis 0, in order, which an engine can measure and scale in place.

    One view of each tensor where the memory allows it. The order of its units depends on the shape alone, so
    that a gradient and its weight agree.
    """
    pairs = zip(tensors, slots, strict=True)
    return [view for t, slot in pairs for view in ((t,) if slot.has_rows else _views(t, slot))]


def _views(tensor: Tensor, slot: Slot) -> list[Tensor]:
    """A sparse tensor is one unit, and shows the values it stores."""
    tensor = values_of(tensor)
    if not tensor.numel():
        return [tensor]
    if slot.groups > 1:
        tensor = tensor.unflatten(0, (slot.groups, -1))
    count = len(slot.axes)
    return _with_units_first(tensor.movedim(slot.axes, tuple(range(count))), count)


def _with_units_first(tensor: Tensor, count: int) -> list[Tensor]:
    """The first axes, so many of them, as one; in several views where one cannot show that."""
    lengths, strides = tensor.shape[:count], tensor.stride()[:count]
    long = [(length, stride) for length, stride in zip(lengths, strides, strict=True) if length > 1]
    if all(stride == length * step for (_, stride), (length, step) in pairwise(long)):
        # An axis of length 1 at the end: an engine takes a vector for one unit.
        return [tensor.view(math.prod(lengths), *tensor.shape[count:], *[1] * (count == tensor.ndim))]
    return [view for part in tensor.unbind(0) for view in _with_units_first(part, count - 1)]


class UnitRows(NamedTuple):
    """What a layer says of its weight; see `Slot`."""

    axes: tuple[int, ...]
    groups: int


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of Hugging Face's GPT-2, whose weight is ``(in, out)``."""
    kinds = ((kind.__module__, kind.__name__) for kind in type(module).__mro__)
    return ("transformers.pytorch_utils", "Conv1D") in kinds and isinstance(module.weight, nn.Parameter)


def _transposed(model: nn.Module | None) -> dict[int, UnitRows]:
    """The weights of transposed convolutions, ``(in, out / groups, ...)``, and of GPT-2's layers, by id.

    A filter of the output has its group's rows of axis 0. Of tied weights the first layer decides, as with
    their names.
    """
    found: dict[int, UnitRows | None] = {}
    for module in model.modules() if model is not None else ():
        if _is_conv1d(module):
            found.setdefault(id(module.weight), UnitRows((1,), 1))
        if not isinstance(module, _TRANSPOSED):
            for parameter in module.parameters(recurse=False):
                found.setdefault(id(parameter), None)
            continue
        groups = module.groups
        shape = (module.in_channels, module.out_channels // groups, *module.kernel_size)
        # Not `module.weight`, which a parametrization makes anew each time.
        for parameter in module.parameters():
            rows = UnitRows((1,), 1) if groups == 1 else UnitRows((0, 2), groups)
            found.setdefault(id(parameter), rows if parameter.shape == shape else None)
    return {key: rows for key, rows in found.items() if rows is not None}
