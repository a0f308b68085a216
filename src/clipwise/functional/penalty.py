"""The gradient penalty of WGAN-GP, for all frameworks with automatic differentiation."""

import math
from collections.abc import Callable
from typing import Any

from clipwise.checks import is_number, number_where
from clipwise.errors import ArgumentError
from clipwise.functional.inputs import Shape, floats, same_length, same_shape, shape_of
from clipwise.namespace import Array, Namespace, namespace_of


def gradient_penalty(
    critic: Callable[[Array], Array],
    real: Array,
    fake: Array,
    weight: float,
    target: float,
    one_sided: bool,
    *,
    alpha: Any,
    source: tuple[str, Any],
    draw: Callable[[Array], Array],
    as_array: Callable[[Any], Array],
    kind: str = "a tensor",
) -> Array:
    """``weight * mean((||grad critic(x)|| - target)^2)``, or of ``max(0, norm - target)^2``.

    Each x is ``alpha * real + (1 - alpha) * fake``, with one alpha per sample. The norm is taken over all
    axes of a sample, in float32 or wider; where it is 0, so is its derivative.

    Args:
        critic: a function of a batch that returns one number per sample: (n,) or (n, 1, ...).
        real, fake: batches of the same shape (n, ...); no gradient flows back into them.
        weight: weight of the penalty, lambda in the paper.
        target: the desired norm.
        one_sided: penalise only norms above the target.
        alpha: interpolation weights in [0, 1], one per sample or one for all; None: drawn.
        source: name and value of the source of random numbers; the value is None if it was not given.
        draw: a function of ``real`` that returns one number in [0, 1] per sample.
        as_array: converts anything that the framework accepts to an array.
        kind: the framework's word for an array.

    Returns:
        The penalty, 0-d.

    Raises:
        ArgumentError: shapes or dtypes do not fit, a number is out of range, or the critic's output does not
            depend on its input (in JAX its gradient is 0 then).

    Source: Gulrajani et al. 2017, "Improved training of Wasserstein GANs", arXiv:1704.00028.
    """
    weight, target = (
        number_where(name, value, lambda value: 0 <= value < math.inf, "a finite number of at least 0")
        for name, value in (("weight", weight), ("target", target))
    )

    def as_floats(name: str, value: Any) -> tuple[Namespace, Array]:
        try:
            array = as_array(value)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"{name} must be {kind} of floats, got {type(value).__name__}") from error
        xp, array = floats(name, array, f"be {kind} of floats")
        return xp, xp.stop_gradient(array)

    (xp, real), (_, fake) = as_floats("real", real), as_floats("fake", fake)
    samples = shape_of("real", real)
    _check_batches(samples, shape_of("fake", fake))
    if alpha is None:
        where = draw(real)
    elif source[1] is not None:
        raise ArgumentError(f"give alpha or the {source[0]} to draw it with, not both")
    elif is_number(alpha):
        if not 0 <= alpha <= 1:
            raise ArgumentError(f"alpha must lie between 0 and 1, got {alpha!r}")
        where = float(alpha)
    else:
        _, where = as_floats("alpha", alpha)
        _check_alpha(shape_of("alpha", where), samples)
    dtype = xp.result_type(real.dtype, fake.dtype)
    if not isinstance(where, float):
        where = xp.like(where, dtype=dtype)
    points = between(xp, xp.astype(real, dtype), xp.astype(fake, dtype), where)

    def scored(points: Array) -> Array:
        scores = critic(points)
        try:
            scores = as_array(scores)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"the critic must return {kind}, returned {type(scores).__name__}") from error
        _check_scores(shape_of("the critic's output", scores), samples)
        return scores

    gradient = xp.slopes(scored, points)
    if gradient is None:
        raise ArgumentError("the critic's output does not depend on its input")
    wide = xp.astype(gradient, xp.result_type(gradient.dtype, xp.float32))
    return penalty_of(namespace_of(wide), wide, weight, target, one_sided)


def _check_batches(real: Shape, fake: Shape) -> None:
    if not same_shape(real, fake):
        raise ArgumentError(f"real and fake must have the same shape, got {real} and {fake}")
    if not real:
        raise ArgumentError("real and fake must be batches, their first axis the samples, got single numbers")
    if 0 in real:
        raise ArgumentError(f"real and fake must hold at least one number, got the shape {real}")


def _check_alpha(alpha: Shape, samples: Shape) -> None:
    fits = len(alpha) in (1, len(samples)) and same_length(alpha[0], samples[0])
    if not fits or any(length != 1 for length in alpha[1:]):
        raise ArgumentError(
            f"alpha must be one number per sample, of shape ({samples[0]},), got the shape {alpha}"
        )


def _check_scores(scores: Shape, samples: Shape) -> None:
    """Refuse what is not one number a sample: the gradient of a mean over the batch would be too small."""
    fits = len(scores) > 0 and same_length(scores[0], samples[0])
    if not fits or any(length not in (1, None) for length in scores[1:]):
        raise ArgumentError(
            f"the critic must return one number per sample, of shape ({samples[0]},) or ({samples[0]}, 1),"
            f" got the shape {scores}"
        )


def between(xp: Any, real: Array, fake: Array, alpha: Array | float) -> Array:
    """``alpha * real + (1 - alpha) * fake``, with one alpha per sample or one for all; all of one dtype.

    >>> import numpy as np
    >>> between(np, np.ones((2, 3)), np.zeros((2, 3)), np.array([1.0, 0.25]))[:, 0].tolist()
    [1.0, 0.25]
    """
    if not isinstance(alpha, float):
        alpha = xp.reshape(alpha, (-1, *[1] * (len(real.shape) - 1)))
    return alpha * real + (1.0 - alpha) * fake


def penalty_of(xp: Namespace, gradients: Array, weight: float, target: float, one_sided: bool) -> Array:
    """The penalty from the gradients; norms are over all axes but 0.

    Each sample is divided by its largest entry first, so that squares do not overflow. The norm of a zero
    gradient is 0, and so are its derivatives of every order.

    Args:
        xp: namespace of the gradients.
        gradients: (n, ...), in float32 or wider.
        weight, target, one_sided: as for `gradient_penalty`.
    """
    rank = len(gradients.shape)
    flat = gradients if rank > 1 else xp.reshape(gradients, (-1, 1))
    axes = tuple(range(1, max(rank, 2)))
    largest = xp.stop_gradient(xp.max(xp.abs(flat), axis=axes, keepdims=True))
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
