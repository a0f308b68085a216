"""Gradients and weights of the models, in the shapes that JAX, TensorFlow and Keras give them."""

import numpy as np

from benchmarks.cases import CASES, GRADIENT_STD, WEIGHT_STD

__all__ = ["CASES", "LEARNING", "arrays", "norm"]

LEARNING = ("small", "lstm")
"""Cases that are short enough for a few microseconds to show."""


def arrays(case: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Gradients and weights, float32; convolutions with their channels last, as (H, W, in, out)."""
    rng = np.random.default_rng(0)
    shapes = [s if len(s) != 4 else (s[2], s[3], s[1], s[0]) for s in CASES[case].shapes]
    gradients = [rng.normal(0.0, GRADIENT_STD, shape).astype(np.float32) for shape in shapes]
    return gradients, [rng.normal(0.0, WEIGHT_STD, shape).astype(np.float32) for shape in shapes]


def norm(gradients: list[np.ndarray]) -> float:
    """The joint norm, in float64."""
    return float(np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients)))
