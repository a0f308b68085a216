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
    """``weight * mean((||grad critic(x)|| - target)^2)`` at random points x between real and fake samples.

    The gradient penalty of WGAN-GP: added to the critic's loss it keeps the norm of the critic's gradient
    near ``target``. Each x is ``alpha * real + (1 - alpha) * fake``, with one alpha per sample. The norm is
    taken over all axes of a sample, in float32 or wider; where it is 0, so is its derivative. Use it in a
    ``train_step``, in ``compute_loss`` or in a loop of your own, with the back end's way of differentiating:
    under a tape, with ``jax.grad``, or before ``backward``. On JAX the critic must not change its own
    variables while it is differentiated: no dropout, no batch normalisation.

    Args:
        critic: a model or a function of a batch that returns one number per sample: (n,) or (n, 1, ...).
        real, fake: batches of the same shape (n, ...); no gradient flows back into them.
        weight: weight of the penalty, lambda in the paper.
        target: the desired norm.
        one_sided: penalise only norms above the target: ``max(0, norm - target)^2``.
        alpha: interpolation weights in [0, 1], one per sample or one for all; by default drawn uniformly.
        seed: a number, or a ``keras.random.SeedGenerator``, which gives other points in each step. By default
            Keras' global generator is used, which is not possible inside a compiled step on JAX.

    Returns:
        The penalty, 0-d.

    Raises:
        ArgumentError: shapes or dtypes do not fit, a number is out of range, or the critic's output does not
            depend on its input (on JAX its gradient is 0 then).

    Source: Gulrajani et al. 2017, arXiv:1704.00028.

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
