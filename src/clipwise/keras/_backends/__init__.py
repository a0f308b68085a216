"""What Keras' back ends do differently around a clipped step; only the one that Keras runs on is loaded.

Each module has the same names:

- ``read(variable)``: its value, to be used before the variable is given another; ``snapshot(variable)``: its
  value for good, which nothing waits for; ``like()``: any array.
- ``prepare(optimizer, gradients, whole)``: gradients as plain arrays, the same on all replicas, and a
  function that gives them their form again; ``whole``: sparse ones as dense.
- ``is_traced(arrays)``: whether they are being compiled, so that their values cannot be looked at.
- ``unless(optimizer, skip, act, *arguments)``: do something unless the variable ``skip`` is 1.
- ``undone(skip, variables)``: a context after which the variables are as before it where ``skip`` is 1.
- ``as_it_is(function)``: the function, which no compiler is to rewrite.
- ``write(optimizer, variables, arrays)``: give weights other values, in all replicas.
"""

import importlib
from typing import Any

import keras

from clipwise.errors import ArgumentError

_KNOWN = ("jax", "tensorflow", "torch")


def backend() -> Any:
    """The module of the back end that Keras runs on."""
    name = keras.backend.backend()
    if name not in _KNOWN:
        raise ArgumentError(f"clipwise.keras trains on {', '.join(_KNOWN)}, and Keras runs on {name!r}")
    return importlib.import_module(f"clipwise.keras._backends.{name}")
