"""`attach(updates=...)`: what each step is about to do is clipped, against the formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import clipwise
import clipwise.jax as cj
from clipwise import Clip, thresholds
from clipwise.errors import ArgumentError, NonFiniteError, StateError

from .trees import close, grads, params, same, wide

RATE = optax.linear_schedule(0.2, 0.0, 4)
LIMIT = 0.8


def spiky(step):
    """Gradients with a spike at the third step."""
    return grads(step, 300.0 if step == 2 else 3.0)


def followed(optimizer, steps=6, gradients=spiky):
    weights = params()
    state, update = optimizer.init(weights), jax.jit(optimizer.update)
    for step in range(steps):
        made, state = update(gradients(step), state, weights)
        weights = optax.apply_updates(weights, made)
    assert update._cache_size() == 1
    return weights, state


def by_hand(steps=6):
    """AdamW whose updates have a root mean square of at most LIMIT, by tensor; and how many had more."""
    weights = wide(params())
    m, v, clipped = [0.0] * 3, [0.0] * 3, 0
    for step in range(steps):
        rate = float(RATE(step))
        for i, g in enumerate(wide(spiky(step))):
            m[i], v[i] = 0.9 * m[i] + 0.1 * g, 0.999 * v[i] + 0.001 * g**2
            u = m[i] / (1 - 0.9 ** (step + 1)) / (np.sqrt(v[i] / (1 - 0.999 ** (step + 1))) + 1e-8)
            u = u + 0.1 * weights[i]
            size = np.sqrt((u**2).mean())
            clipped += size > LIMIT
            weights[i] = weights[i] - rate * u / max(1.0, size / LIMIT)
    return weights, clipped


@pytest.mark.parametrize("way", ["schedule", "injected"])
def test_the_update_without_the_learning_rate_is_clipped(way):
    """At the fifth step the schedule is at 0."""
    clip = clipwise.clip_by_block_rms(LIMIT)

    def make(learning_rate):
        adam = optax.adamw(learning_rate, weight_decay=0.1)
        return cj.attach(adam, updates=clip, learning_rate=learning_rate)

    optimizer = make(RATE) if way == "schedule" else optax.inject_hyperparams(make)(learning_rate=RATE)
    weights, state = followed(optimizer)
    expected, clipped = by_hand()
    assert 0 < clipped < 18
    for found, wanted in zip(wide(weights), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
    report = cj.updates_report(state)
    assert report.names == ("dense.bias", "dense.kernel", "embed.embedding")
    # And with the clip between optimizer and rate, as in a chain by hand.
    chained = optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(0.1),
        cj.transform(clip),
        optax.scale_by_learning_rate(RATE),
    )
    close(weights, followed(chained)[0], rtol=2e-5, atol=2e-6)


def test_what_is_not_clipped_keeps_its_bits_and_weights_are_those_before():
    clip = clipwise.by_name(
        {"dense.kernel": Clip(thresholds.relative(0.5), per="tensor"), "*": clipwise.clip_by_norm(1e9)}
    )
    optimizer = cj.attach(optax.sgd(0.3), updates=clip, weights="clip_by_value(100.0)", learning_rate=0.3)
    weights, plain = params(), optax.sgd(0.3)
    found, state = optimizer.update(grads(scale=100.0), optimizer.init(weights), weights)
    wanted, _ = plain.update(grads(scale=100.0), plain.init(weights), weights)
    same(found["embed"], wanted["embed"])
    size = np.linalg.norm(wide(weights)[1])
    np.testing.assert_allclose(np.linalg.norm(wide(found)[1]), 0.3 * 0.5 * size, rtol=1e-5)
    assert float(cj.report(state).norm) == pytest.approx(float(cj.updates_report(state).norm), rel=1e-5)
    assert cj.weights_report(state).at_bound is not None


def test_a_step_whose_update_is_not_finite_is_as_if_it_had_never_been():
    """With a clip of the weights behind it."""
    optimizer = cj.attach(
        optax.adam(RATE), updates="clip_by_block_rms(1.0)", weights="clip_by_value(100.0)", learning_rate=RATE
    )
    own = params()
    _, state = optimizer.update(grads(), optimizer.init(own), own)
    inner = state.inner[0]
    moments = inner.inner[0]
    broken = inner._replace(
        inner=(moments._replace(nu=jax.tree.map(lambda v: -v - 1.0, moments.nu)), *inner.inner[1:])
    )
    state = state._replace(inner=(broken, *state.inner[1:]))
    made, after = jax.jit(optimizer.update)(grads(1), state, own)
    same(made, jax.tree.map(jnp.zeros_like, own))
    same(after.inner[0].inner, broken.inner)
    assert (int(after.skipped_steps), int(after.clip.step)) == (1, 2)
    report = cj.updates_report(after)
    assert (bool(report.skipped), int(report.nonfinite)) == (True, 3)
    # One whose gradient holds NaN makes no update, so no report of one.
    nan = jax.tree.map(lambda g: g * jnp.nan, grads())
    made, later = optimizer.update(nan, after, own)
    same(later.inner, after.inner)
    assert int(later.skipped_steps) == 2


def test_halves_are_measured_in_float32():
    optimizer = cj.attach(optax.sgd(1e-4), updates="clip_by_block_rms(1.0)", learning_rate=1e-4)
    own = {"w": jnp.zeros(4, jnp.float16), "none": None}
    made, state = optimizer.update(
        {"w": jnp.full(4, 3.0, jnp.float16), "none": None}, optimizer.init(own), own
    )
    assert made["w"].dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(made["w"], float), -1e-4, rtol=2e-3)
    assert float(cj.updates_report(state).norm) == pytest.approx(3.0, rel=2e-3)


def test_refused():
    for given, message in (
        ({}, "give learning_rate=, the number or the schedule"),
        ({"learning_rate": -0.1}, "learning_rate must be a number of at least 0, or a schedule, got -0.1"),
        ({"learning_rate": float("nan")}, "or a schedule, got nan"),
        ({"learning_rate": "x"}, "or a schedule, got 'x'"),
        ({"learning_rate": jnp.zeros(2)}, "or a schedule"),
    ):
        with pytest.raises(ArgumentError, match=message):
            cj.attach(optax.adam(0.1), updates="clip_by_block_rms(1.0)", **given)
    for clip, message in (
        ("stable_adamw()", "reads the second moment of Adam in torch.optim, and not in optax"),
        ("clip_by_norm(reduce_on_instability())", "updates cannot follow the loss"),
        ("skip_spikes()", "after a step that has happened"),
    ):
        with pytest.raises(ArgumentError, match=message):
            cj.attach(optax.adam(0.1), updates=clip, learning_rate=0.1)
    with pytest.raises(ArgumentError, match="or updates="):
        cj.attach(optax.adam(0.1))
    with pytest.raises(StateError, match="no report of updates"):
        cj.updates_report(cj.attach(optax.sgd(0.1), "clip_by_norm(1.0)").init(params()))
    optimizer = cj.attach(optax.sgd(1e38), updates="clip_by_norm(1.0)", learning_rate=1e-3, nonfinite="error")
    with pytest.raises(NonFiniteError):
        optimizer.update({"w": jnp.full(2, 1e3)}, optimizer.init({"w": jnp.zeros(2)}), {"w": jnp.zeros(2)})
