"""Gradients for the tests here, and what clipping must give: plain numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np


def params(dtype=jnp.float32):
    rng = np.random.default_rng(1)
    return {
        "dense": {"kernel": jnp.asarray(rng.normal(size=(5, 7)), dtype), "bias": jnp.zeros(7, dtype)},
        "embed": {"embedding": jnp.asarray(rng.normal(size=(4, 3)), dtype)},
    }


def grads(seed=0, scale=3.0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, scale, p.shape), dtype), params())


def wide(tree):
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


def global_norm(tree):
    return float(np.sqrt(sum((leaf**2).sum() for leaf in wide(tree))))


def close(found, expected, rtol=1e-6, atol=1e-7):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(wide(found), wide(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)


def same(found, expected):
    """To the bit, NaN included."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for pair in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(getattr(pair[0], "dtype", None), jax.dtypes.prng_key):
            pair = tuple(map(jax.random.key_data, pair))
        one, other = map(np.asarray, pair)
        assert one.tobytes() == other.tobytes()
