"""The table on TensorFlow: eagerly, and in a function, where the threshold is an argument."""

import math
from functools import cache, partial
from typing import Any, ClassVar

import tensorflow as tf

import clipwise.tensorflow
from clipwise import Clip, ClipReport
from tests.depth import brief

from . import oracle
from .cases import FEW, RANGES, SOME, THRESHOLDS
from .own_policies import LOSSES, MOMENTUM, RATE
from .values import narrow, rounded, wide


def to_tensorflow(gradients, dtype: str):
    there = oracle.reshaped(gradients, -1)
    return {k: None if v is None else tf.constant(narrow(v, dtype)) for k, v in there.items()}


def to_numpy(names, clipped, report: ClipReport):
    found = {
        name: wide(value.numpy()) for name, value in zip(names, clipped, strict=True) if value is not None
    }
    return oracle.reshaped(found, 0), report


class OnTensorFlow:
    """Operation by operation."""

    DTYPES: ClassVar = brief(
        ["float64", "float32", "bfloat16", "float16", "complex64"], "float64", "float32", "bfloat16"
    )
    CLIPS: ClassVar = SOME
    THRESHOLDS: ClassVar = [0.0, 1.0, math.inf]
    RANGES: ClassVar = RANGES[:2]
    NORMS: ClassVar = dict.fromkeys(("float32", "bfloat16", "float16", "complex64"), 1e-06)
    rounded = staticmethod(rounded)

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, rows, clip: Clip, dtype: str):
        found = {}
        for name, gradients in rows.items():
            there = to_tensorflow(gradients, dtype)
            clipped, _, report = clipwise.tensorflow.clip(clip, list(there.values()))
            found[name] = to_numpy(there, clipped, report)
        return found

    def follow(self, clips, weights, gradients):
        return _followed(partial(_step_of_all, clips), clips, weights, gradients)


def _step_of_all(clips, states, gradients, weights, loss):
    """One step of each clip: the clipped gradients, and the states after it."""
    found = {
        name: clipwise.tensorflow.clip(
            clip,
            gradients,
            states[name],
            weights,
            loss=loss,
            learning_rate=RATE,
            momentum=MOMENTUM,
            nonfinite="skip",
        )
        for name, clip in clips.items()
    }
    return {name: one[0] for name, one in found.items()}, {name: one[1] for name, one in found.items()}


def _followed(step, clips, weights, gradients):
    there = list(to_tensorflow(weights, "float32").values())
    states = {name: clipwise.tensorflow.init(clip, there) for name, clip in clips.items()}
    found = {name: [] for name in clips}
    for given, loss in zip(gradients, LOSSES, strict=True):
        own = list(to_tensorflow(given, "float32").values())
        clipped, states = step(states, own, there, tf.constant(loss))
        for name, one in clipped.items():
            found[name].append(to_numpy(given, one, None)[0])
    return found


@cache
def compiled(per: str, norm: Any):
    @tf.function(autograph=False)
    def all_rows(rows, threshold):
        clip = Clip(threshold, per=per, norm=norm)
        return {name: clipwise.tensorflow.clip(clip, given)[::2] for name, given in rows.items()}

    return all_rows


class OnFunction(OnTensorFlow):
    """In a tf.function."""

    DTYPES: ClassVar = brief(["float32", "bfloat16"], "float32")
    CLIPS: ClassVar = FEW
    THRESHOLDS: ClassVar = THRESHOLDS  # an argument: none is traced anew

    def run(self, rows, clip: Clip, dtype: str):
        there = {name: to_tensorflow(gradients, dtype) for name, gradients in rows.items()}
        given = {name: list(row.values()) for name, row in there.items()}
        if isinstance(clip.threshold, tuple):
            all_rows = tf.function(
                lambda rows: {name: clipwise.tensorflow.clip(clip, row)[::2] for name, row in rows.items()},
                autograph=False,
            )
            found = all_rows(given)
        else:
            found = compiled(clip.per, clip.norm)(given, tf.constant(clip.threshold, tf.float64))
        return {name: to_numpy(there[name], *pair) for name, pair in found.items()}

    def follow(self, clips, weights, gradients):
        step = tf.function(partial(_step_of_all, clips), autograph=False)
        return _followed(step, clips, weights, gradients)
