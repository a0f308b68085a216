"""Along which axes the units of a weight lie: axis 0, unless its layer or the user says otherwise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from clipwise.errors import ArgumentError
from clipwise.functional.slots import UnitAxes, make_slots
from clipwise.torch.engines.reference import unit_count, values_of

__all__ = ["Units", "Way"]


@dataclass(frozen=True)
class Way:
    """How the units of one tensor lie, where it is not along axis 0.

    Attributes:
        axes: that tell the units apart, ascending; empty: it is one unit.
        groups: into which axis 0 is split first, as a new axis before it; the axes are counted after that.
    """

    axes: tuple[int, ...]
    groups: int = 1

    def views(self, tensor: Tensor) -> list[Tensor]:
        """Views whose first axis counts the units, which an engine can measure and scale in place.

        One view where the memory allows it. The order of all units together depends on the shape alone, so
        that a gradient and its weight agree. A sparse tensor is one unit, and shows the values it stores.
        """
        tensor = values_of(tensor)
        if not tensor.numel():
            return [tensor]
        if self.groups > 1:
            tensor = tensor.unflatten(0, (self.groups, -1))
        count = len(self.axes)
        return _with_units_first(tensor.movedim(self.axes, tuple(range(count))), count)

    def count(self, tensor: Tensor) -> int:
        """How many units a tensor has; an empty one is one unit."""
        shape = tuple(tensor.shape)
        if self.groups > 1:
            shape = (self.groups, shape[0] // self.groups, *shape[1:])
        return math.prod(shape[axis] for axis in self.axes) if tensor.numel() else 1


def _with_units_first(tensor: Tensor, count: int) -> list[Tensor]:
    """The first axes, so many of them, as one; in several views where one cannot show that."""
    lengths, strides = tensor.shape[:count], tensor.stride()[:count]
    long = [(length, stride) for length, stride in zip(lengths, strides, strict=True) if length > 1]
    if all(stride == length * step for (_, stride), (length, step) in pairwise(long)):
        # An axis of length 1 at the end: an engine takes a vector for one unit.
        return [tensor.view(math.prod(lengths), *tensor.shape[count:], *[1] * (count == tensor.ndim))]
    return [view for part in tensor.unbind(0) for view in _with_units_first(part, count - 1)]


class Units:
    """What is said of the units of some parameters; of most nothing, and then they lie along axis 0.

    Args:
        said: what the user says, by shell patterns of names; the first that matches wins.

    Raises:
        ArgumentError: ``said`` is no mapping.
    """

    def __init__(self, said: UnitAxes | None = None) -> None:
        if not isinstance(said, Mapping | None):
            raise ArgumentError(
                f"unit_axes must map patterns of names to axes, such as {{'*.weight': 1}}, got {said!r}"
            )
        self._said = dict(said or {})
        self._ways: dict[int, tuple[Tensor, Way]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # By tensor, not by id: in a copy the parameters are others.
        return {"said": self._said, "ways": list(self._ways.values())}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._said = state["said"]
        self._ways = {id(tensor): (tensor, way) for tensor, way in state["ways"]}

    def extend(
        self, parameters: Mapping[str, Tensor], model: nn.Module | None, *, later: bool = False
    ) -> None:
        """Take in parameters by name; a transposed convolution of the model says where its units lie.

        Args:
            later: these came after others, so not every pattern has to match one of them.

        Raises:
            ArgumentError: an axis is none, or not one of the weight it is for. Nothing is taken in.
            ParameterError: a pattern matches no parameter. Nothing is taken in.
        """
        said, layers = self._said, _transposed(model)
        if later:
            said = {p: axes for p, axes in said.items() if any(fnmatchcase(name, p) for name in parameters)}
        shapes = [(name, tuple(p.shape)) for name, p in parameters.items()]
        for slot in make_slots(shapes, said, dict.fromkeys(parameters, (0,))):
            parameter = parameters[slot.name]
            told = any(fnmatchcase(slot.name, pattern) for pattern in said)
            way = None if told else layers.get(id(parameter))
            if slot.axes != ((0,) if len(slot.shape) > 1 else ()):
                way = Way(slot.axes)
            if way is not None:
                self._ways[id(parameter)] = (parameter, way)

    def keep(self, ids: set[int]) -> None:
        """Let go of all parameters but these."""
        self._ways = {key: value for key, value in self._ways.items() if key in ids}

    def way(self, parameter: Tensor) -> Way | None:
        """How the units of a parameter lie, None where it is along axis 0."""
        found = self._ways.get(id(parameter))
        return None if found is None else found[1]

    def ways(self, parameters: Sequence[Tensor]) -> list[Way | None]:
        """The same of several."""
        return [self.way(parameter) for parameter in parameters]

    def count(self, parameter: Tensor) -> int:
        """How many units a parameter has."""
        way = self.way(parameter)
        return unit_count(parameter) if way is None else way.count(parameter)


_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _is_conv1d(module: nn.Module) -> bool:
    """Whether it is the linear layer of Hugging Face's GPT-2, whose weight is ``(in, out)``."""
    kinds = ((kind.__module__, kind.__name__) for kind in type(module).__mro__)
    return ("transformers.pytorch_utils", "Conv1D") in kinds and isinstance(module.weight, nn.Parameter)


def _transposed(model: nn.Module | None) -> dict[int, Way]:
    """The weights of transposed convolutions, ``(in, out / groups, ...)``, and of GPT-2's layers, by id.

    A filter of the output has its group's rows of axis 0. Of tied weights the first layer decides, as with
    their names.
    """
    found: dict[int, Way | None] = {}
    for module in model.modules() if model is not None else ():
        if _is_conv1d(module):
            found.setdefault(id(module.weight), Way((1,)))
        if not isinstance(module, _TRANSPOSED):
            for parameter in module.parameters(recurse=False):
                found.setdefault(id(parameter), None)
            continue
        groups = module.groups
        shape = (module.in_channels, module.out_channels // groups, *module.kernel_size)
        # Not `module.weight`, which a parametrization makes anew each time.
        for parameter in module.parameters():
            way = Way((1,)) if groups == 1 else Way((0, 2), groups)
            found.setdefault(id(parameter), way if parameter.shape == shape else None)
    return {key: way for key, way in found.items() if way is not None}
