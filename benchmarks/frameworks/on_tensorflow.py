"""Ours against ``tf.clip_by_global_norm``, each in a function."""

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

import clipwise
import clipwise.tensorflow
from benchmarks.frameworks.rows import Contest
from benchmarks.frameworks.shapes import CASES, LEARNING, arrays, norm

__all__ = ["contests"]


def contests(cases: list[str]) -> Iterator[Contest]:
    """Global norm, not clipped and clipped, for each model."""
    for name in cases:
        gradients, _ = arrays(name)
        size = norm(gradients)
        there = [tf.constant(g) for g in gradients]
        for clips, threshold in (("not clipped", 2 * size), ("clipped", size / 2)):
            yield Contest(
                "tensorflow",
                CASES[name].title,
                f"global norm, {clips}",
                _peer(there, threshold),
                _ours(clipwise.clip_by_global_norm(threshold), there),
                # The gradients are the same each time, so a percentile of their norms clips nothing.
                _ours(clipwise.autoclip(10), there) if threshold > size and name in LEARNING else None,
            )


def _peer(gradients: list[Any], threshold: float) -> Callable[[], object]:
    @tf.function(autograph=False)
    def step(given: list[Any]) -> Any:
        return tf.clip_by_global_norm(given, threshold)

    return lambda: step(gradients)


def _ours(clip: clipwise.AnyClip, gradients: list[Any]) -> Callable[[], object]:
    state = clipwise.tensorflow.init(clip, gradients)

    @tf.function(autograph=False)
    def act(given: list[Any], state: Any) -> Any:
        return clipwise.tensorflow.clip(clip, given, state)

    def step() -> object:
        nonlocal state
        clipped, state, report = act(gradients, state)
        return clipped, report

    return step
