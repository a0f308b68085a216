"""The problem in JAX, by itself and through optax."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

import clipwise.jax
from tests.x64 import enable_x64

from . import problem


def nested(flat):
    tree = {}
    for name, value in flat.items():
        part, leaf = name.split(".")
        tree.setdefault(part, {})[leaf] = value
    return tree


def flattened(tree):
    return {f"{part}.{leaf}": value for part, leaves in tree.items() for leaf, value in leaves.items()}


def loss_of(tree, x, y):
    return problem.loss(flattened(tree), x, y, jnp.tanh, jax.nn.sigmoid, jnp.mean)


gradient_of = jax.jit(jax.value_and_grad(loss_of))
"""Compiled once for all clips: most of the time of a case would go into it."""


def train(clip, dtype: str, follows_loss: bool = False, *, through_optax: bool = False):
    with enable_x64(dtype == "float64"):
        weights = nested({k: jnp.asarray(w, dtype) for k, w in problem.weights().items()})
        step, state = (_optax_step if through_optax else _plain_step)(clip, weights, follows_loss)
        for x, y in problem.batches():
            loss, gradients = gradient_of(weights, jnp.asarray(x, dtype), jnp.asarray(y, dtype))
            weights, state, report = step(weights, state, gradients, loss)
            yield float(report.threshold), jax.device_get(flattened(weights)), problem.held(report)


def _plain_step(clip, weights, follows_loss):
    @jax.jit
    def step(weights, state, gradients, loss):
        gradients, state, report = clipwise.jax.clip(
            clip,
            gradients,
            state,
            weights,
            loss=loss if follows_loss else None,
            learning_rate=problem.RATE,
            momentum=0.0,
        )
        return jax.tree.map(lambda w, g: w - problem.RATE * g, weights, gradients), state, report

    return step, clipwise.jax.init(clip, weights)


def _optax_step(clip, weights, follows_loss):
    optimizer = optax.chain(
        clipwise.jax.transform(clip, learning_rate=problem.RATE, momentum=0.0), optax.sgd(problem.RATE)
    )

    @jax.jit
    def step(weights, state, gradients, loss):
        told = {"value": loss} if follows_loss else {}
        updates, state = optimizer.update(gradients, state, weights, **told)
        return optax.apply_updates(weights, updates), state, clipwise.jax.report(state)

    return step, optimizer.init(weights)


train_through_optax = partial(train, through_optax=True)
