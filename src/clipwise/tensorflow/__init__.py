"""Clipping in TensorFlow: `clip`, a pure function for `GradientTape` loops, eager, traced or compiled by XLA.

There is no ``attach`` here: TensorFlow's optimizers are those of Keras, for which there is
`clipwise.keras.attach`.
"""

from clipwise.functional.clipping import ClipState
from clipwise.tensorflow.functional import clip, init
from clipwise.tensorflow.penalty import gradient_penalty
from clipwise.tensorflow.per_example import PerExample, per_example

__all__ = ["ClipState", "PerExample", "clip", "gradient_penalty", "init", "per_example"]
