"""Tiny models of flax and equinox, trained, against a loop by hand in float64 norms."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import clipwise
import clipwise.jax

from .trees import close

X = jnp.asarray(np.random.default_rng(0).normal(size=(16, 3)), jnp.float32)
Y = jnp.sin(X.sum(1, keepdims=True)) * 5


def by_hand(grad, weights, steps=4, rate=0.1, threshold=0.5):
    """Plain gradient descent, each gradient clipped by its global norm."""
    for _ in range(steps):
        gradients = grad(weights)
        norm = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(gradients)))
        assert norm > threshold
        weights = jax.tree.map(
            lambda w, g, norm=norm: jnp.asarray(
                w - rate * np.asarray(g, np.float64) * threshold / norm, w.dtype
            ),
            weights,
            gradients,
        )
    return weights


def optimizer():
    return clipwise.jax.attach(optax.sgd(0.1), clipwise.clip_by_global_norm(0.5))


def test_linen():
    nn = pytest.importorskip("flax.linen")
    train_state = pytest.importorskip("flax.training.train_state")
    model = nn.Sequential([nn.Dense(4), nn.tanh, nn.Dense(1)])
    weights = model.init(jax.random.key(0), X)

    def loss(weights):
        return ((model.apply(weights, X) - Y) ** 2).mean()

    state = train_state.TrainState.create(apply_fn=model.apply, params=weights, tx=optimizer())
    step = jax.jit(lambda state: state.apply_gradients(grads=jax.grad(loss)(state.params)))
    for _ in range(4):
        state = step(state)
    close(state.params, by_hand(jax.grad(loss), weights), rtol=1e-5)
    assert clipwise.jax.report(state.opt_state).names[0] == "params.layers_0.bias"


def test_nnx():
    nnx = pytest.importorskip("flax.nnx")

    class Model(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.first = nnx.Linear(3, 4, rngs=rngs)
            self.last = nnx.Linear(4, 1, rngs=rngs)

        def __call__(self, x):
            return self.last(jnp.tanh(self.first(x)))

    model = Model()
    form, weights = nnx.split(model, nnx.Param)

    def loss(model):
        return ((model(X) - Y) ** 2).mean()

    def grad(weights):
        return jax.grad(lambda w: loss(nnx.merge(form, w)))(weights)

    expected = by_hand(grad, weights)
    holder = nnx.Optimizer(model, optimizer(), wrt=nnx.Param)

    @nnx.jit
    def step(model, holder):
        holder.update(model, nnx.grad(loss)(model))

    for _ in range(4):
        step(model, holder)
    close(nnx.state(model, nnx.Param), expected, rtol=1e-5)
    report = clipwise.jax.report(holder.opt_state)
    assert report.names == ("first.bias", "first.kernel", "last.bias", "last.kernel")
    assert float(report.norm_after) == pytest.approx(0.5, rel=1e-6)


def test_equinox():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(3, 1, 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    weights = eqx.filter(model, eqx.is_inexact_array)

    @eqx.filter_grad
    def grad(model):
        return ((jax.vmap(model)(X) - Y) ** 2).mean()

    tx = optimizer()
    state = tx.init(weights)

    @eqx.filter_jit
    def step(model, state):
        updates, state = tx.update(grad(model), state, model)
        return eqx.apply_updates(model, updates), state

    found = model
    for _ in range(4):
        found, state = step(found, state)
    static = eqx.filter(model, eqx.is_inexact_array, inverse=True)
    expected = by_hand(lambda w: eqx.filter(grad(eqx.combine(w, static)), eqx.is_inexact_array), weights)
    close(eqx.filter(found, eqx.is_inexact_array), expected, rtol=1e-5)
    assert clipwise.jax.report(state).names[0] == "layers.0.weight"


def test_units_of_equinox_are_the_rows():
    eqx = pytest.importorskip("equinox")
    model = {
        "lin": eqx.nn.Linear(3, 2, key=jax.random.key(0)),
        "emb": eqx.nn.Embedding(4, 3, key=jax.random.key(1)),
    }
    out, _, _ = clipwise.jax.clip(clipwise.Clip(0.1, per="unit"), model)
    for name in model:
        rows = np.asarray(model[name].weight)
        expected = rows * np.minimum(1, 0.1 / np.linalg.norm(rows, axis=1))[:, None]
        np.testing.assert_allclose(out[name].weight, expected, rtol=1e-6)
