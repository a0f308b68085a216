"""The back ends that the table runs on, each in a process of its own.

Keras has one back end a process, and LLVM comes with several frameworks and cannot be loaded twice.
``CLIPWISE_BACK_ENDS`` names some of `ALL`, with commas between; without it all of them run. A process of one
of them is told by ``CLIPWISE_BACK_END``.
"""

import importlib
import os

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


def here() -> str | None:
    """The back end that this process is for; None in the process that starts them."""
    return os.environ.get("CLIPWISE_BACK_END")


def make(name: str):
    """The back end of this name; see table/test_table.py for what it has."""
    module, of = CLASSES[name]
    return getattr(importlib.import_module(f"tests.conformance.table.{module}"), of)(name)
