"""The table on JAX: op by op, compiled, and as a part of an optax optimizer.

Compiled, the threshold is an argument and all rows are one function, so that the table compiles in minutes.
"""

import contextlib
import math
from collections.abc import Iterator
from functools import cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

import clipwise.jax
from clipwise import Clip, ClipReport
from tests.depth import brief, each_value, pairwise
from tests.x64 import enable_x64

from . import oracle, own_policies
from .cases import FEW, FEW_SHAPES, RANGES, SOME, THRESHOLDS
from .own_policies import LOSSES, MOMENTUM, RATE
from .values import narrow, rounded, wide


@contextlib.contextmanager
def wide_enough(dtype: str) -> Iterator[None]:
    with enable_x64(dtype == "float64"):
        yield


def to_jax(gradients, dtype: str):
    there = oracle.reshaped(gradients, -1)
    return {k: None if v is None else jnp.asarray(narrow(v, dtype)) for k, v in there.items()}


def to_numpy(gradients, report: ClipReport):
    found = {name: wide(value) for name, value in gradients.items() if value is not None}
    return oracle.reshaped(found, 0), report


class OnJax:
    """Operation by operation."""

    DTYPES: ClassVar = brief(
        ["float64", "float32", "bfloat16", "float16", "complex64"], "float64", "bfloat16"
    )  # compiled, float32
    CLIPS: ClassVar = SOME
    ROWS: ClassVar = FEW_SHAPES  # compiled, all
    COMBINED = staticmethod(each_value)
    THRESHOLDS: ClassVar = brief([0.0, 1.0, math.inf], 0.0, 1.0)
    RANGES: ClassVar = RANGES[:2]
    NORMS: ClassVar = dict.fromkeys(("float32", "bfloat16", "float16", "complex64"), 1e-06)
    OWN: ClassVar = ["Halving per element", "WeighedAverage per element"]  # compiled, all
    rounded = staticmethod(rounded)

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, rows, clip: Clip, dtype: str):
        with wide_enough(dtype), jax.disable_jit():
            found = {}
            for name, gradients in rows.items():
                clipped, _, report = clipwise.jax.clip(clip, to_jax(gradients, dtype))
                found[name] = to_numpy(clipped, report)
            return found

    def follow(self, clips, weights, gradients):
        with jax.disable_jit():
            return _followed(_step_of_all, clips, weights, gradients)


def _step_of_all(clips, states, gradients, weights, loss):
    """One step of each clip: the clipped gradients, and the states after it."""
    found = {
        name: clipwise.jax.clip(
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
    there = to_jax(weights, "float32")
    states = {name: clipwise.jax.init(clip, there) for name, clip in clips.items()}
    found = {name: [] for name in clips}
    for given, loss in zip(gradients, LOSSES, strict=True):
        clipped, states = step(clips, states, to_jax(given, "float32"), there, jnp.asarray(loss))
        for name, one in clipped.items():
            found[name].append(to_numpy(one, None)[0])
    return found


@cache
def compiled(per: str, norm: Any):
    @jax.jit
    def all_rows(rows, threshold):
        clip = Clip(threshold, per=per, norm=norm)
        return {name: clipwise.jax.clip(clip, gradients)[::2] for name, gradients in rows.items()}

    return all_rows


class OnCompiledJax(OnJax):
    """Under jit, the threshold traced; a range, whose order is checked when it is made, is a constant."""

    DTYPES: ClassVar = brief(["float32", "bfloat16"], "float32")
    CLIPS: ClassVar = FEW
    ROWS: ClassVar = None
    COMBINED = staticmethod(pairwise)
    OWN: ClassVar = list(own_policies.CLIPS)
    RANGES: ClassVar = brief(RANGES[:2], RANGES[0])
    THRESHOLDS: ClassVar = THRESHOLDS  # an argument: none is compiled anew

    def run(self, rows, clip: Clip, dtype: str):
        def with_range(given):
            return {name: clipwise.jax.clip(clip, gradients)[::2] for name, gradients in given.items()}

        with wide_enough(dtype):
            there = {name: to_jax(gradients, dtype) for name, gradients in rows.items()}
            if isinstance(clip.threshold, tuple):
                found = jax.jit(with_range)(there)
            else:
                found = compiled(clip.per, clip.norm)(there, jnp.asarray(clip.threshold))
            return {name: to_numpy(*pair) for name, pair in found.items()}

    def follow(self, clips, weights, gradients):
        step = jax.jit(partial(_step_of_all, clips))
        return _followed(lambda _, *given: step(*given), clips, weights, gradients)


class OnOptax(OnJax):
    """As the first of a chain with plain SGD, whose updates are the clipped gradients, turned round."""

    OWN: ClassVar = ["WeighedAverage per element", "Told per unit", "Halving per global"]

    DTYPES: ClassVar = brief(["float32", "bfloat16"], "float32")
    CLIPS: ClassVar = FEW
    ROWS: ClassVar = FEW_SHAPES
    THRESHOLDS: ClassVar = brief([0.0, 1.0, math.inf], 1.0)
    RANGES: ClassVar = brief(RANGES[:2], RANGES[0])

    def run(self, rows, clip: Clip, dtype: str):
        found = {}
        with wide_enough(dtype), jax.disable_jit():
            for name, gradients in rows.items():
                there = to_jax(gradients, dtype)
                optimizer = optax.chain(clipwise.jax.transform(clip), optax.sgd(1.0))
                updates, state = optimizer.update(there, optimizer.init(there))
                clipped = {k: None if u is None else -u for k, u in updates.items()}
                found[name] = to_numpy(clipped, clipwise.jax.report(state))
        return found

    def follow(self, clips, weights, gradients):
        return {name: _through_optax(clip, weights, gradients) for name, clip in clips.items()}


def _through_optax(clip, weights, gradients):
    there = to_jax(weights, "float32")
    optimizer = clipwise.jax.attach(optax.sgd(1.0), clip, learning_rate=RATE, momentum=MOMENTUM)
    update, state, found = jax.jit(optimizer.update), optimizer.init(there), []
    for given, loss in zip(gradients, LOSSES, strict=True):
        updates, state = update(to_jax(given, "float32"), state, there, value=jnp.asarray(loss))
        found.append(to_numpy({k: None if u is None else -u for k, u in updates.items()}, None)[0])
    return found
