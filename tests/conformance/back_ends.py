"""The back ends that the table runs on.

Keras has one back end a process: the table runs on that of this process, and tests/keras/test_backends.py
starts one process for each of the others. ``CLIPWISE_BACK_ENDS`` names some of `ALL`, with commas between.
"""

import importlib
import os
import sys
from functools import cache
from typing import Any

from tests.torch_engines import ENGINES

__all__ = ["ALL", "chosen", "here", "make"]

CLASSES = {
    **{f"torch-{engine}": ("on_torch", "OnTorch") for engine in ENGINES},
    "jax": ("on_jax", "OnJax"),
    "jax-jit": ("on_jax", "OnCompiledJax"),
    "optax": ("on_jax", "OnOptax"),
    "tensorflow": ("on_tensorflow", "OnTensorFlow"),
    "tensorflow-function": ("on_tensorflow", "OnFunction"),
    "keras-tensorflow": ("on_keras", "OnKeras"),
    "keras-jax": ("on_keras", "OnKeras"),
    "keras-torch": ("on_keras", "OnKeras"),
}

ALL = list(CLASSES)


def chosen() -> list[str]:
    """The names of those that are to run.

    Raises:
        ValueError: one is named that does not exist.
    """
    said = os.environ.get("CLIPWISE_BACK_ENDS")
    names = ALL if said is None else [name.strip() for name in said.split(",")]
    unknown = [name for name in names if name not in ALL]
    if unknown:
        raise ValueError(f"CLIPWISE_BACK_ENDS names {unknown[0]!r}; there are {', '.join(ALL)}")
    return names


@cache
def here() -> list[str]:
    """Those of the chosen that run in this process.

    Where one of Keras' is named, and nothing has imported Keras yet, Keras takes that one.
    """
    names = chosen()
    in_keras = [name.removeprefix("keras-") for name in names if name.startswith("keras-")]
    if not in_keras:
        return names
    if len(in_keras) == 1 and "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = in_keras[0]
    own = f"keras-{importlib.import_module('keras').backend.backend()}"
    return [name for name in names if name == own or not name.startswith("keras-")]


@cache
def make(name: str) -> Any:
    """The back end of this name; see table/test_table.py for what it has."""
    module, of = CLASSES[name]
    return getattr(importlib.import_module(f"tests.conformance.table.{module}"), of)(name)
