"""The gradient penalty of WGAN-GP for TensorFlow."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

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
    generator: Any = None,
) -> Array:
    """``weight * mean((||grad critic(x)|| - target)^2)`` at random points x between real and fake samples.

    The gradient penalty of WGAN-GP: added to the critic's loss it keeps the norm of the critic's gradient
    near ``target``. Each x is ``alpha * real + (1 - alpha) * fake``, with one alpha per sample. The norm is
    taken over all axes of a sample, in float32 or wider; where it is 0, so is its derivative. Call it under a
    `tf.GradientTape`, eagerly, in a `tf.function`, or compiled by XLA.

    Args:
        critic: a model or a function of a batch that returns one number per sample: (n,) or (n, 1, ...).
        real, fake: batches of the same shape (n, ...); no gradient flows back into them.
        weight: weight of the penalty, lambda in the paper.
        target: the desired norm.
        one_sided: penalise only norms above the target: ``max(0, norm - target)^2``.
        alpha: interpolation weights in [0, 1], one per sample or one for all; by default drawn uniformly.
        generator: a `tf.random.Generator` for alpha; by default the global one, see `tf.random.set_seed`.

    Returns:
        The penalty, 0-d.

    Raises:
        ArgumentError: shapes or dtypes do not fit, a number is out of range, or the critic's output does not
            depend on its input.

    Source: Gulrajani et al. 2017, arXiv:1704.00028.

    >>> import tensorflow as tf
    >>> slope = tf.constant([3.0, 4.0])
    >>> print(gradient_penalty(lambda x: x @ slope[:, None], tf.ones((8, 2)), tf.zeros((8, 2))).numpy())
    160.0
    """

    def draw(real: Array) -> Array:
        samples = tf.shape(real)[:1]
        return tf.random.uniform(samples) if generator is None else generator.uniform(samples)

    return penalty.gradient_penalty(
        critic,
        real,
        fake,
        weight,
        target,
        one_sided,
        alpha=alpha,
        source=("generator", generator),
        draw=draw,
        as_array=tf.convert_to_tensor,
    )
