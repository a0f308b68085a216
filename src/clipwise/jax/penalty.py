"""The gradient penalty of WGAN-GP for JAX."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from clipwise.errors import ArgumentError
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
    key: Array | None = None,
    alpha: Array | float | None = None,
) -> Array:
    """``weight * mean((||grad critic(x)|| - target)^2)`` at random points x between real and fake samples.

    The gradient penalty of WGAN-GP: added to the critic's loss it keeps the norm of the critic's gradient
    near ``target``. Each x is ``alpha * real + (1 - alpha) * fake``, with one alpha per sample. The norm is
    taken over all axes of a sample, in float32 or wider; where it is 0, so is its derivative. The function is
    pure: it can be jitted, vmapped, and differentiated to any order. If the critic's output does not depend
    on its input, its gradient is 0, as always in JAX.

    Args:
        critic: a function of a batch that returns one number per sample, such as
            ``lambda x: model.apply(params, x)``: (n,) or (n, 1, ...).
        real, fake: batches of the same shape (n, ...); no gradient flows back into them.
        weight: weight of the penalty, lambda in the paper.
        target: the desired norm.
        one_sided: penalise only norms above the target: ``max(0, norm - target)^2``.
        key: random key from which alpha is drawn uniformly.
        alpha: interpolation weights instead of a key: in [0, 1], one per sample or one for all.

    Returns:
        The penalty, 0-d.

    Raises:
        ArgumentError: shapes or dtypes do not fit, a number is out of range, or not exactly one of key and
            alpha is given.

    Source: Gulrajani et al. 2017, arXiv:1704.00028.

    >>> import jax, jax.numpy as jnp
    >>> slope = jnp.array([3.0, 4.0])
    >>> key = jax.random.key(0)
    >>> print(gradient_penalty(lambda x: x @ slope, jnp.ones((8, 2)), jnp.zeros((8, 2)), key=key))
    160.0
    """

    def draw(real: Array) -> Array:
        if key is None:
            raise ArgumentError("give a key to draw the points with, such as jax.random.key(0), or alpha")
        return jax.random.uniform(key, real.shape[:1])

    return penalty.gradient_penalty(
        critic,
        real,
        fake,
        weight,
        target,
        one_sided,
        alpha=alpha,
        source=("key", key),
        draw=draw,
        as_array=jnp.asarray,
        kind="an array",
    )
