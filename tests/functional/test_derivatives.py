"""Derivatives through a clip, where a norm is 0, on the threshold and above it, against float64.

With ``c = t / ||g||`` and weights v of the outcome, ``d(v . c g)/dg = c (v - g (v . g) / ||g||^2)`` above the
threshold t, and v within.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorflow as tf

import clipwise
import clipwise.jax
import clipwise.tensorflow
from clipwise import Clip

RNG = np.random.default_rng(0)
NONZERO = [np.array([3.0, 4.0]), np.array([0.6, 0.8]), np.array([0.0, -2.0, 0.0])]
GRADS = [np.zeros((2, 3)), *NONZERO, np.zeros(())]
V = [RNG.normal(size=g.shape) for g in GRADS]


def of_jax(clip, **options):
    def total(grads):
        out, state, report = clipwise.jax.clip(clip, grads, **options)
        # Numbers that a scan would carry along: their derivatives are asked for, and count for nothing.
        others = [x for x in jax.tree.leaves((state, report)) if jnp.issubdtype(x.dtype, jnp.floating)]
        rest = sum(jnp.sum(jnp.where(jnp.isfinite(x), x, 0.0)) for x in others)
        return sum(jnp.sum(v * g) for v, g in zip(V, out, strict=True)) + 0.0 * rest

    derivative = jax.jit(jax.grad(total))
    return lambda grads: [np.asarray(g) for g in derivative([jnp.asarray(g, jnp.float32) for g in grads])]


def of_tensorflow(clip, way=lambda function: function, **options):
    @way
    def derivative(grads):
        with tf.GradientTape() as tape:
            tape.watch(grads)
            out, _, report = clipwise.tensorflow.clip(clip, grads, direction=True, **options)
            total = tf.add_n([tf.reduce_sum(tf.cast(v, g.dtype) * g) for v, g in zip(V, out, strict=True)])
            others = report.norm + report.norm_after + report.direction
            total += 0.0 * tf.cast(others, tf.float32)
        return tape.gradient(total, grads)

    return lambda grads: [g.numpy() for g in derivative([tf.constant(g, tf.float32) for g in grads])]


BACK_ENDS = {
    "jax": of_jax,
    "tensorflow": of_tensorflow,
    "tensorflow, graph": lambda clip: of_tensorflow(clip, tf.function),
}


def by_hand(grads, vs, threshold):
    """Of a clip of these by their joint 2-norm."""
    norm = math.sqrt(sum((g**2).sum() for g in grads))
    if norm <= threshold:
        return vs
    product = sum((v * g).sum() for v, g in zip(vs, grads, strict=True))
    return [threshold / norm * (v - g * product / norm**2) for v, g in zip(vs, grads, strict=True)]


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(("per", "threshold"), [("global", 100.0), ("global", 1.0), ("tensor", 1.0)])
def test_beside_tensors_of_zeros(back_end, per, threshold):
    found = BACK_ENDS[back_end](Clip(threshold, per=per))(GRADS)
    if per == "global":
        wanted = by_hand(GRADS, V, threshold)
    else:
        wanted = [by_hand([g], [v], threshold)[0] for g, v in zip(GRADS, V, strict=True)]
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("back_end", ["jax", "tensorflow"])
@pytest.mark.parametrize("norm", [math.inf, 3.0, 0.5])
def test_in_any_norm_a_tensor_of_zeros_is_passed_as_it_is(back_end, norm):
    found = BACK_ENDS[back_end](Clip(0.5, per="tensor", norm=norm))(GRADS)
    for one, g, v in zip(found, GRADS, V, strict=True):
        assert np.isfinite(one).all()
        if not g.any():
            np.testing.assert_array_equal(one, v.astype(np.float32))


POLICIES = {
    "agc": clipwise.adaptive_grad_clip(0.01),
    "autoclip": clipwise.autoclip(50),
    "zclip": clipwise.zclip(warmup=1),
    "chain": clipwise.chain(clipwise.clip_by_value(3.0), clipwise.clip_by_norm(2.0)),
}


@pytest.mark.parametrize("back_end", ["jax", "tensorflow"])
@pytest.mark.parametrize("name", POLICIES)
def test_of_policies_nothing_is_nan(back_end, name):
    array = {"jax": jnp.asarray, "tensorflow": tf.constant}[back_end]
    weights = [array(np.zeros_like(g), dtype="float32") for g in GRADS]
    options = {"params" if back_end == "jax" else "variables": weights, "learning_rate": 0.1}
    derivative = BACK_ENDS[back_end](POLICIES[name], **options)
    for grads in (GRADS, [np.zeros_like(g) for g in GRADS]):
        assert all(np.isfinite(g).all() for g in derivative(grads))


def test_training_is_differentiated_as_without_a_clip_that_does_not_act():
    """Over three steps, by the first weights and by the learning rate."""
    target = jnp.array([1.0, -2.0])

    def loss(weights):
        dead = jnp.sum(jnp.maximum(weights["dead"], 0.0) ** 2)
        return jnp.sum((weights["used"] ** 2 - target) ** 2) + dead

    def trained(make):
        def last(weights, rate):
            optimizer = make(optax.sgd(rate))

            def step(carry, _):
                weights, state = carry
                updates, state = optimizer.update(jax.grad(loss)(weights), state, weights)
                return (optax.apply_updates(weights, updates), state), None

            (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), length=3)
            return loss(weights)

        weights = {"used": jnp.array([0.5, 0.0]), "dead": -jnp.ones((2, 2))}
        return jax.jit(jax.grad(last, argnums=(0, 1)))(weights, jnp.float32(0.01))

    clip = clipwise.clip_by_global_norm(100.0)
    wanted = trained(lambda sgd: sgd)
    for make in (
        lambda sgd: optax.chain(clipwise.jax.transform(clip), sgd),
        lambda sgd: clipwise.jax.attach(sgd, clipwise.clip_by_norm(100.0), weights=clip),
    ):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), trained(make), wanted)


def test_the_second_derivative_at_zero_is_zero():
    def total(g):
        return jnp.sum(clipwise.jax.clip(clipwise.clip_by_norm(1.0), [g, 3.0 + g])[0][0] * 2.0)

    assert not jax.jit(jax.hessian(total))(jnp.zeros(2)).any()
