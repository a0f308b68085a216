"""The table on Keras with the back end of this process: a step of SGD from 0 is the clipped gradient."""

from typing import ClassVar

import keras
import numpy as np

import clipwise.keras
from clipwise import Clip
from tests.depth import brief

from . import oracle
from .cases import BRIEF_ROWS, FEW, FEW_SHAPES, RANGES
from .own_policies import CLIPS as OWN_CLIPS
from .own_policies import LOSSES, MOMENTUM, RATE
from .values import narrow, rounded, wide

ON_JAX = keras.backend.backend() == "jax"
"""There each operation is compiled for each shape."""


class OnKeras:
    """A Keras optimizer that clips, outside of any compiled function."""

    DTYPES: ClassVar = brief(["float32", "bfloat16"], "float32")
    CLIPS: ClassVar = brief(FEW, ("unit", 2.0), ("global", 2.0)) if ON_JAX else FEW
    THRESHOLDS: ClassVar = brief([0.0, 1.0], 1.0)
    ROWS: ClassVar = FEW_SHAPES if ON_JAX else BRIEF_ROWS
    RANGES: ClassVar = brief(RANGES[:2], RANGES[0])
    NORMS: ClassVar = dict.fromkeys(("float32", "bfloat16"), 1e-06)
    OWN: ClassVar = (
        brief(OWN_CLIPS, "Halving per element", "WeighedAverage per global") if ON_JAX else [*OWN_CLIPS]
    )
    rounded = staticmethod(rounded)

    def __init__(self, name: str) -> None:
        assert name == f"keras-{keras.backend.backend()}"
        self.name = name

    def run(self, rows, clip: Clip, dtype: str):
        return {
            name: self._run(gradients, clip, dtype)
            for name, gradients in rows.items()
            # Keras itself refuses a step without any gradient.
            if any(value is not None for value in gradients.values())
        }

    def _run(self, gradients, clip: Clip, dtype: str):
        there = oracle.reshaped(gradients, -1)
        variables, given = [], []
        for name, value in there.items():
            shape = (2, 2) if value is None else value.shape
            variables.append(keras.Variable(np.zeros(shape), dtype=dtype, name=name))
            as_dtype = None if value is None else narrow(value, "float32")
            given.append(None if value is None else keras.ops.convert_to_tensor(as_dtype, dtype=dtype))
        optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), clip, nonfinite="propagate")
        optimizer.apply(given, variables)
        found = {
            name: -wide(keras.ops.convert_to_numpy(keras.ops.cast(variable.value, "float32")))
            for (name, value), variable in zip(there.items(), variables, strict=True)
            if value is not None
        }
        return oracle.reshaped(found, 0), clipwise.keras.report(optimizer)

    def follow(self, clips, weights, gradients):
        return {name: follow(clip, weights, gradients) for name, clip in clips.items()}


def follow(clip, weights, gradients):
    there = oracle.reshaped(weights, -1)
    variables = {name: keras.Variable(w, dtype="float32", name=name) for name, w in there.items()}
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(RATE, momentum=MOMENTUM), clip)
    optimizer.build(list(variables.values()))
    velocity, found = dict.fromkeys(there, 0.0), []
    for given, loss in zip(gradients, LOSSES, strict=True):
        own = oracle.reshaped(given, -1)
        tensors = [
            None if g is None else keras.ops.convert_to_tensor(g.astype("float32")) for g in own.values()
        ]
        clipwise.keras.observe(optimizer, loss)
        optimizer.apply(tensors, list(variables.values()))
        clipped = {}
        for name, variable in variables.items():
            moved = wide(keras.ops.convert_to_numpy(variable.value)) - wide(there[name].astype("float32"))
            if own[name] is not None and not np.isnan(own["head"]).any():
                clipped[name] = (MOMENTUM * velocity[name] - moved) / RATE
                velocity[name] = moved
            variable.assign(there[name])
        found.append(oracle.reshaped(clipped, 0))
    return found
