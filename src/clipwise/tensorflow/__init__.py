"""Clipping in TensorFlow: `clip` is a pure function, for `GradientTape` loops, eager, traced or under XLA.

There is no ``attach`` here: TensorFlow's optimizers are those of Keras, which `clipwise.keras.attach` takes.
"""

from clipwise.functional.clipping import ClipState
from clipwise.tensorflow.functional import clip, init
from clipwise.tensorflow.penalty import gradient_penalty
from clipwise.tensorflow.per_example import PerExample, per_example

__all__ = ["ClipState", "PerExample", "clip", "gradient_penalty", "init", "per_example"]
