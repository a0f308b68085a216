"""The gradient penalty in JAX against float64 numpy, and the edges of its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clipwise.errors import ArgumentError
from clipwise.jax import gradient_penalty
from tests.x64 import enable_x64

RNG = np.random.default_rng(11)
W1, W2 = RNG.normal(size=(4, 6)), RNG.normal(size=6)
REAL, FAKE = RNG.normal(size=(2, 5, 4))
ALPHA = RNG.uniform(size=5)


def by_hand(w1=W1, w2=W2, *, weight=10.0, target=1.0, one_sided=False):
    """Of the critic ``tanh(x w1) w2``."""
    points = ALPHA[:, None] * REAL + (1 - ALPHA[:, None]) * FAKE
    slopes = ((1 - np.tanh(points @ w1) ** 2) * w2) @ w1.T
    beyond = np.linalg.norm(slopes, axis=1) - target
    return weight * np.mean((np.maximum(beyond, 0) if one_sided else beyond) ** 2)


def penalty(params, **settings):
    return gradient_penalty(
        lambda x: jnp.tanh(x @ params[0]) @ params[1],
        jnp.asarray(REAL),
        jnp.asarray(FAKE),
        alpha=jnp.asarray(ALPHA),
        **settings,
    )


@pytest.mark.parametrize("settings", [{}, {"weight": 2.5, "target": 4.0}, {"target": 3.0, "one_sided": True}])
def test_formula_and_its_gradient(settings):
    with enable_x64(True):
        params = (jnp.asarray(W1), jnp.asarray(W2))
        value, grads = jax.jit(jax.value_and_grad(lambda p: penalty(p, **settings)))(params)
        assert value.dtype == jnp.float64
        assert float(value) == pytest.approx(by_hand(**settings), rel=1e-12)
        for place, grad in enumerate(grads):
            for index in np.ndindex(grad.shape):
                ends = []
                for step in (1e-6, -1e-6):
                    moved = [W1.copy(), W2.copy()]
                    moved[place][index] += step
                    ends.append(by_hand(*moved, **settings))
                assert float(grad[index]) == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5, abs=1e-6)


def test_differentiable_twice_and_under_vmap():
    from jax.test_util import check_grads

    with enable_x64(True):
        check_grads(lambda p: penalty(p), ((jnp.asarray(W1), jnp.asarray(W2)),), order=2, modes=["rev"])
        scales = jnp.array([1.0, 2.0])
        many = jax.vmap(lambda s: penalty((s * jnp.asarray(W1), jnp.asarray(W2))))(scales)
        np.testing.assert_allclose(many, [by_hand(), by_hand(w1=2 * W1)], rtol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4, 4)])
def test_any_rank(shape):
    slope = RNG.normal(size=shape[1:]).astype("float32")
    batch = jnp.zeros(shape)
    found = gradient_penalty(
        lambda x: (x * slope).reshape(len(x), -1).sum(1, keepdims=True), batch, batch, key=jax.random.key(0)
    )
    assert float(found) == pytest.approx(10 * (np.linalg.norm(slope) - 1) ** 2, rel=1e-4)


def test_zeros_small_and_bad_slopes():
    def value_and_grad(w, **settings):
        return jax.value_and_grad(
            lambda w: gradient_penalty(
                lambda x: x @ w, jnp.ones((2, 2)), jnp.zeros((2, 2)), alpha=0.5, **settings
            )
        )(jnp.asarray(w))

    value, grad = value_and_grad([0.0, 0.0])
    assert float(value) == 10.0
    assert grad.tolist() == [0.0, 0.0]
    _, grad = value_and_grad([3e-25, 4e-25], weight=1.0)
    np.testing.assert_allclose(grad, [-1.2, -1.6], rtol=1e-6)
    for one_sided in (False, True):
        assert not np.isfinite(value_and_grad([np.nan, 1.0], one_sided=one_sided)[0])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_norms_of_halves_are_wide(dtype):
    slope, batch = jnp.full((512,), 256.0, dtype), jnp.zeros((2, 512), dtype)
    found = gradient_penalty(lambda x: x @ slope, batch, batch, weight=1.0, target=0.0, alpha=0.5)
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(512 * 256.0**2, rel=1e-6)


def test_points_are_drawn_by_the_key_and_nothing_flows_back():
    def of(real, key):
        return gradient_penalty(lambda x: (x**2).sum(1), real, jnp.zeros((8, 3)), key=key)

    first, same, other = (of(jnp.ones((8, 3)), jax.random.key(k)) for k in (0, 0, 1))
    assert first == same != other
    assert not jax.grad(of)(jnp.ones((8, 3)), jax.random.key(0)).any()


TWO = jnp.zeros((2, 3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fake": jnp.zeros((2, 4))}, r"the same shape, got \(2, 3\) and \(2, 4\)"),
        ({"real": jnp.zeros((2, 3), "int32")}, "real must be an array of floats, got int32"),
        ({"critic": lambda x: x.mean()}, r"one number per sample.*got the shape \(\)"),
        ({"alpha": jnp.zeros(3)}, r"got the shape \(3,\)"),
        ({"alpha": -0.5}, "between 0 and 1, got -0.5"),
        ({"alpha": None}, "give a key"),
        ({"key": jax.random.key(0)}, "give alpha or the key to draw it with, not both"),
        ({"weight": float("inf")}, "weight must be a finite number"),
    ],
)
def test_refused(change, said):
    arguments = {"critic": lambda x: x.sum(1), "real": TWO, "fake": TWO, "alpha": 0.5} | change
    with pytest.raises(ArgumentError, match=said):
        gradient_penalty(**arguments)
