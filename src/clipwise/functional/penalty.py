"""The gradient penalty of WGAN-GP, its part that is the same in every framework."""

import math
import numbers
from collections.abc import Callable
from typing import Any

from clipwise.errors import ArgumentError
from clipwise.namespace import Array, Namespace

__all__ = ["between", "check_batches", "check_numbers", "check_scores", "penalty_of", "where_between"]

Shape = tuple[int | None, ...]
"""Of an array; None for a length that is not known while a function is traced."""


def check_numbers(weight: Any, target: Any) -> tuple[float, float]:
    """The weight and the target as floats.

    Raises:
        ArgumentError: one is no finite number of at least 0.
    """
    for name, value in (("weight", weight), ("target", target)):
        number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        if not number or not 0 <= value < math.inf:
            raise ArgumentError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(weight), float(target)


def check_batches(real: Shape, fake: Shape) -> None:
    """Refuse batches that have no common shape.

    Raises:
        ArgumentError: the shapes differ, or hold no sample.
    """
    same = len(real) == len(fake) and all(
        a == b or a is None or b is None for a, b in zip(real, fake, strict=True)
    )
    if not same:
        raise ArgumentError(f"real and fake must have one shape, got {real} and {fake}")
    if not real:
        raise ArgumentError("real and fake must be batches, their first axis the samples, got single numbers")
    if 0 in real:
        raise ArgumentError(f"real and fake must hold at least one number, got the shape {real}")


def where_between(
    alpha: Any,
    samples: Shape,
    source: tuple[str, Any],
    draw: Callable[[], Array],
    floats: Callable[[str, Any], Array],
) -> Array | float:
    """Where the points lie: one number for all, or one a sample, given or drawn.

    Args:
        alpha: as it was given, or None.
        samples: the shape of the batches.
        source: what alpha is drawn with, by name; None: it was not given.
        draw: gives one number a sample.
        floats: of a name and a value: an array of floats, through which nothing is differentiated.

    Raises:
        ArgumentError: alpha and its source are both given; a number leaves [0, 1]; an array is not of floats,
            or its shape neither (n,) nor (n, 1, ..., 1).
    """
    if alpha is None:
        return draw()
    if source[1] is not None:
        raise ArgumentError(f"give alpha or the {source[0]} to draw it with, not both")
    if isinstance(alpha, numbers.Real) and not isinstance(alpha, bool):
        if not 0 <= float(alpha) <= 1:
            raise ArgumentError(f"alpha must lie between 0 and 1, got {alpha!r}")
        return float(alpha)
    alpha = floats("alpha", alpha)
    shape = tuple(alpha.shape)
    fits = len(shape) in (1, len(samples)) and (shape[0] == samples[0] or None in (shape[0], samples[0]))
    if not fits or any(length != 1 for length in shape[1:]):
        raise ArgumentError(
            f"alpha must be one number a sample, of shape ({samples[0]},), got the shape {shape}"
        )
    return alpha


def check_scores(scores: Shape, samples: Shape) -> None:
    """Refuse what is not one number a sample: the gradient of a mean over the batch would be too small.

    Raises:
        ArgumentError: the shape is neither (n,) nor (n, 1, ..., 1).
    """
    fits = len(scores) > 0 and (scores[0] == samples[0] or None in (scores[0], samples[0]))
    if not fits or any(length not in (1, None) for length in scores[1:]):
        raise ArgumentError(
            f"the critic must give one number a sample, of shape ({samples[0]},) or ({samples[0]}, 1), and"
            f" gave the shape {scores}"
        )


def between(xp: Any, real: Array, fake: Array, alpha: Array | float) -> Array:
    """``alpha real + (1 - alpha) fake`` with one alpha a sample, or for all; arrays are of one dtype.

    >>> import numpy as np
    >>> between(np, np.ones((2, 3)), np.zeros((2, 3)), np.array([1.0, 0.25]))[:, 0].tolist()
    [1.0, 0.25]
    """
    if not isinstance(alpha, float):
        alpha = xp.reshape(alpha, (-1, *[1] * (len(real.shape) - 1)))
    return alpha * real + (1.0 - alpha) * fake


def penalty_of(
    xp: Namespace,
    gradients: Array,
    stop: Callable[[Array], Array],
    weight: float,
    target: float,
    one_sided: bool,
) -> Array:
    """``weight mean((norm - target)^2)``, or of ``max(0, norm - target)^2``; norms are over all axes but 0.

    Divided by the largest entry of each sample first, so that no square leaves the range; the norm of a
    gradient of zeros is 0 and so is its derivative, to every order.

    Args:
        xp: of the gradients.
        gradients: (n, ...), in float32 or wider.
        stop: what hides an array from differentiation.
    """
    rank = len(gradients.shape)
    flat = gradients if rank > 1 else xp.reshape(gradients, (-1, 1))
    axes = tuple(range(1, max(rank, 2)))
    largest = stop(xp.max(xp.abs(flat), axis=axes, keepdims=True))
    # The norm is homogeneous, so a divisor that counts as constant changes no derivative.
    divisor = xp.where((largest > 0) & (largest < math.inf), largest, xp.ones_like(largest))
    parts = flat / divisor
    squares = xp.sum(parts * parts, axis=axes)
    there = squares != 0
    # Twice chosen: a root of 0 must not even be differentiated where it is not taken.
    roots = xp.sqrt(xp.where(there, squares, xp.ones_like(squares)))
    norms = xp.where(there, roots, xp.zeros_like(roots)) * xp.reshape(divisor, (-1,))
    beyond = norms - target
    if one_sided:
        # By what is below: NaN, which is neither, stays.
        beyond = xp.where(beyond < 0, xp.zeros_like(beyond), beyond)
    return weight * xp.mean(beyond * beyond)
