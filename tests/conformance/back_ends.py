"""Which back ends the table runs on here, and which of them did.

``CLIPWISE_BACK_ENDS`` names some of `ALL`, with commas between; all of them without it. Keras has one back
end a process, so its three run in processes of their own, one test each.
"""

import importlib
import os

from tests.torch_engines import ENGINES

KERAS = ["keras-tensorflow", "keras-jax", "keras-torch"]
ALL = [
    *(f"torch-{engine}" for engine in ENGINES),
    "jax",
    "jax-jit",
    "optax",
    "tensorflow",
    "tensorflow-function",
    *KERAS,
]

CLASSES = {
    "jax": ("on_jax", "OnJax"),
    "jax-jit": ("on_jax", "OnCompiledJax"),
    "optax": ("on_jax", "OnOptax"),
    "tensorflow": ("on_tensorflow", "OnTensorFlow"),
    "tensorflow-function": ("on_tensorflow", "OnFunction"),
}

RAN: dict[str, int] = {}
"""How many rows of tests each back end has passed in this run."""


def chosen() -> list[str]:
    """The names of those that are to run."""
    said = os.environ.get("CLIPWISE_BACK_ENDS")
    names = ALL if said is None else [name.strip() for name in said.split(",")]
    unknown = [name for name in names if name not in ALL]
    if unknown:
        raise ValueError(f"CLIPWISE_BACK_ENDS names {unknown[0]!r}; there are {', '.join(ALL)}")
    return names


def own_process() -> str | None:
    """The back end of Keras that this process was started for."""
    return os.environ.get("CLIPWISE_KERAS_PROCESS")


def here() -> list:
    """Those that run in this process, made."""
    if own_process():
        return [importlib.import_module("tests.conformance.on_keras").OnKeras()]
    made = []
    for name in chosen():
        if name.startswith("torch-"):
            made.append(
                importlib.import_module("tests.conformance.on_torch").OnTorch(name.removeprefix("torch-"))
            )
        elif name in CLASSES:
            module, of = CLASSES[name]
            made.append(getattr(importlib.import_module(f"tests.conformance.{module}"), of)())
    return made
