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
    """``weight mean((||grad critic(x)|| - target)^2)`` at random points x between real and generated samples.

    Added to the critic's loss it holds the critic near slope 1 (Gulrajani et al. 2017, arXiv:1704.00028).
    Each x is ``alpha real + (1 - alpha) fake`` with one alpha a sample. Norms are of a sample's whole
    gradient, over all axes but the first, in float32 or wider; where a norm is 0, so is its derivative.
    Pure: it can be jitted, vmapped, and differentiated to any order. The slope of a critic that does not look
    at its input is 0, as ever in JAX.

    Args:
        critic: a function of a batch, such as ``lambda x: model.apply(params, x)``: (n,) or (n, 1, ...).
        real, fake: batches of one shape (n, ...) and any rank; no gradient flows back into them.
        weight: of the penalty, the paper's lambda.
        target: the norm that is wanted.
        one_sided: whether norms below the target cost nothing: ``max(0, norm - target)^2``.
        key: that alpha is drawn with, uniformly.
        alpha: where the points lie, in place of a key: one number in [0, 1] a sample, or one for all.

    Returns:
        The penalty, 0-d.

    Raises:
        ArgumentError: shapes or dtypes do not fit, a number is out of range, or there is not one of key and
            alpha.

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
