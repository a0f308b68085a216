"""The gradient penalty of WGAN-GP for Keras, on any of its back ends."""

from collections.abc import Callable
from typing import Any

import keras

from clipwise.functional import penalty
from clipwise.namespace import Array


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

    def draw(real: Array) -> Array:
        return keras.random.uniform(keras.ops.shape(real)[:1], seed=seed, dtype="float32")

    return penalty.gradient_penalty(
        critic,
        real,
        fake,
        weight,
        target,
        one_sided,
        alpha=alpha,
        source=("seed", seed),
        draw=draw,
        as_array=keras.ops.convert_to_tensor,
    )
