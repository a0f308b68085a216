"""Clipping in TensorFlow: `clip` is a pure function, for `GradientTape` loops, eager, traced or under XLA.

There is no ``attach`` here: TensorFlow's optimizers are those of Keras, which `clipwise.keras.attach` takes.
"""

from typing import NoReturn

from clipwise.functional.clipping import ClipState
from clipwise.tensorflow.functional import clip, init
from clipwise.tensorflow.penalty import gradient_penalty

__all__ = ["ClipState", "clip", "gradient_penalty", "init"]


def __getattr__(name: str) -> NoReturn:
    if name == "per_example":
        raise AttributeError(
            "clipwise.tensorflow clips no single examples: per_example is in clipwise.torch and clipwise.jax"
        )
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
