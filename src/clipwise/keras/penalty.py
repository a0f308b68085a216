"""The gradient penalty of WGAN-GP for Keras, on any of its back ends."""

from collections.abc import Callable
from typing import Any

import keras

from clipwise.errors import ArgumentError
from clipwise.functional import penalty
from clipwise.keras._backends import backend
from clipwise.namespace import Array, namespace_of

__all__ = ["gradient_penalty"]


def gradient_penalty(
    critic: Callable[[Array], Array],
    real: Array,
    fake: Array,
    weight: float = 10.0,
    target: float = 1.0,
    one_sided: bool = False,
    *,
    alpha: Array | float | None = None,
    seed: Any = None,
) -> Array:
    """``weight mean((||grad critic(x)|| - target)^2)`` at random points x between real and generated samples.

    Added to the critic's loss it holds the critic near slope 1 (Gulrajani et al. 2017, arXiv:1704.00028).
    Each x is ``alpha real + (1 - alpha) fake`` with one alpha a sample. Norms are of a sample's whole
    gradient, over all axes but the first, in float32 or wider; where a norm is 0, so is its derivative.
    Use it in a ``train_step``, a ``compute_loss`` or a loop of your own, in whatever way the back end
    differentiates: under a tape, with ``jax.grad``, before ``backward``. On JAX the critic may change no
    variables of its own while it is differentiated: no dropout, no batch normalisation.

    Args:
        critic: a model or a function of a batch, one number a sample: (n,) or (n, 1, ...).
        real, fake: batches of one shape (n, ...) and any rank; no gradient flows back into them.
        weight: of the penalty, the paper's lambda.
        target: the norm that is wanted.
        one_sided: whether norms below the target cost nothing: ``max(0, norm - target)^2``.
        alpha: where the points lie, a number in [0, 1] a sample, or one for all; without it drawn uniformly.
        seed: a number or a ``keras.random.SeedGenerator``, which gives other points in each step. Without it
            Keras' own generator draws, which inside a compiled step on JAX is not possible.

    Returns:
        The penalty, 0-d.

    Raises:
        ArgumentError: shapes or dtypes do not fit, a number is out of range, or the critic's output does not
            depend on its input (on JAX its slope is 0 then).

    >>> import keras
    >>> slope = keras.ops.convert_to_tensor([[3.0], [4.0]])
    >>> critic = lambda x: keras.ops.matmul(x, slope)
    >>> float(gradient_penalty(critic, keras.ops.ones((8, 2)), keras.ops.zeros((8, 2))))
    160.0
    """
    weight, target = penalty.check_numbers(weight, target)
    real, fake = _floats("real", real), _floats("fake", fake)
    penalty.check_batches(tuple(real.shape), tuple(fake.shape))
    ops, kind = keras.ops, keras.backend.standardize_dtype
    dtype = keras.backend.result_type(kind(real.dtype), kind(fake.dtype))
    where = _alpha(alpha, seed, real)
    if not isinstance(where, float):
        where = ops.cast(where, dtype)
    points = penalty.between(ops, ops.cast(real, dtype), ops.cast(fake, dtype), where)

    def scored(points: Array) -> Array:
        scores = ops.convert_to_tensor(critic(points))
        penalty.check_scores(tuple(scores.shape), tuple(points.shape))
        return scores

    gradient = backend().slopes(scored, points)
    if gradient is None:
        raise ArgumentError("the critic's output does not depend on its input")
    wide = ops.cast(gradient, keras.backend.result_type(kind(gradient.dtype), "float32"))
    return penalty.penalty_of(namespace_of(wide), wide, backend().hidden, weight, target, one_sided)


def _floats(name: str, batch: Any) -> Array:
    try:
        found = keras.ops.convert_to_tensor(batch)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} must be a tensor of floats, got {type(batch).__name__}") from error
    dtype = keras.backend.standardize_dtype(found.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ArgumentError(f"{name} must be a tensor of floats, got {dtype}")
    return backend().hidden(found)


def _alpha(alpha: Any, seed: Any, real: Array) -> Array | float:
    def draw() -> Array:
        return keras.random.uniform(keras.ops.shape(real)[:1], seed=seed, dtype="float32")

    return penalty.where_between(alpha, tuple(real.shape), ("seed", seed), draw, _floats)
