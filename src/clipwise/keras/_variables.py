"""Names of Keras' variables, and the axes along which their units lie."""

from collections.abc import Sequence
from typing import Any

import keras

from clipwise.errors import ParameterError

_TRANSPOSED = (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)


def name_of(variable: Any) -> str:
    """The path of a variable with dots: ``"encoder.dense.kernel"``."""
    path = getattr(variable, "path", None) or variable.name.partition(":")[0]
    return str(path).replace("/", ".")


def named_shapes(variables: Sequence[Any]) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in order; of two variables with the same name the second's layer gets a ``+``."""
    found: dict[str, tuple[int, ...]] = {}
    for variable in variables:
        name = name_of(variable)
        while name in found:
            owner, dot, own = name.rpartition(".")
            name = f"{owner}+{dot}{own}"
        found[name] = tuple(variable.shape)
    return list(found.items())


def units_of_layers(model: Any, variables: Sequence[Any]) -> dict[int, tuple[int, ...]]:
    """The axes of the units of those variables whose units are not along the last axis, from their layers.

    Raises:
        ParameterError: none of the variables belongs to this model.
    """
    ours = {id(variable) for variable in model.variables}
    if variables and not any(id(variable) in ours for variable in variables):
        raise ParameterError(
            f"model={model.name!r} has none of the {len(variables)} variables of this optimizer"
        )
    found: dict[int, tuple[int, ...]] = {}
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            axes = _units(layer, variable)
            if axes is not None:
                found[id(variable)] = axes
    return found


def _units(layer: Any, variable: Any) -> tuple[int, ...] | None:
    rank, kernel = len(variable.shape), variable.name == "kernel"
    if isinstance(layer, _TRANSPOSED) and kernel:
        return (rank - 2,)
    if (isinstance(layer, _DEPTHWISE) and kernel) or variable.name == "depthwise_kernel":
        return (rank - 2, rank - 1)
    if isinstance(layer, keras.layers.Embedding) and variable.name == "embeddings":
        return (0,)
    if isinstance(layer, keras.layers.EinsumDense) and kernel:
        operands, _, result = layer.equation.replace(" ", "").partition("->")
        letters = operands.partition(",")[2]
        if len(letters) == rank:
            return tuple(axis for axis, letter in enumerate(letters) if letter in result)
    return None
