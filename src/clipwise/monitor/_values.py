"""Values that the user logs, fixed at that moment, and step numbers."""

import contextlib
import operator
from typing import Any

from clipwise.errors import ArgumentError
from clipwise.namespace import framework_of


def as_number(name: str, value: Any) -> Any:
    """A value that later changes of its array or variable do not affect.

    Values on a device are not waited for: a PyTorch tensor is copied there, arrays of JAX and TensorFlow do
    not change. Everything else is read.

    Raises:
        ArgumentError: it is not a number.
    """
    if not hasattr(value, "shape"):
        return _number(name, value)
    shape = tuple(value.shape)
    if any(n != 1 for n in shape):
        raise ArgumentError(f"log takes numbers, got {name}= of shape {shape}")
    if framework_of(value) == "torch":
        return value.detach().clone()
    if hasattr(value, "read_value"):  # a variable of TensorFlow
        return value.read_value()
    if hasattr(getattr(value, "value", None), "shape"):  # of Keras, or of flax
        return as_number(name, value.value)
    if hasattr(value, "copy_to_host_async") or not hasattr(value, "item"):  # arrays of JAX and TensorFlow
        return value
    return _number(name, value)


def _number(name: str, value: Any) -> float:
    try:
        number = value.item() if hasattr(value, "item") else value
        if not isinstance(number, str | bytes):
            return float(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ArgumentError(f"log takes numbers, got {name}= {value!r}") from None


def as_step(value: Any) -> int:
    """A step number, which a recording stores as a float64."""
    with contextlib.suppress(TypeError):
        if 0 <= operator.index(value) <= 2**53:
            return operator.index(value)
    raise ArgumentError(f"step must be a whole number from 0 to 2**53, got {value!r}")
