"""Differences between Keras' back ends around a clipped step; only the module of the active one is loaded.

Each module has the same names:

- ``read(variable)``: its value, to be used before the variable is changed; ``snapshot(variable)``: a copy of
  its value, without a sync; ``like()``: any array.
- ``prepare(optimizer, gradients, whole)``: gradients as plain arrays, equal on all replicas, and a function
  that restores their form; with ``whole``, sparse ones become dense.
- ``is_traced(arrays)``: whether they are tracers, whose values cannot be read.
- ``unless(optimizer, skip, act, *arguments)``: call ``act`` unless the variable ``skip`` is 1.
- ``undone(skip, variables)``: a context after which the variables are restored if ``skip`` is 1.
- ``as_it_is(function)``: the function, protected from being rewritten by a compiler.
- ``write(optimizer, variables, arrays)``: assign new values to weights, in all replicas.
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
