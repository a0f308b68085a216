"""The optax transformation: equal to optax' own clips, and in all that optax composes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import clipwise
import clipwise.jax
from clipwise import thresholds
from clipwise.errors import ArgumentError, NonFiniteError, ParameterError, StateError
from tests.depth import brief

from .test_clip import PRESETS
from .trees import close, global_norm, grads, params, same

OURS_AND_OPTAX = {
    "value": (clipwise.clip_by_value(0.5), optax.clip(0.5)),
    "global": (clipwise.clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0)),
    "rms": (clipwise.clip_by_block_rms(0.5), optax.clip_by_block_rms(0.5)),
    "agc": (clipwise.adaptive_grad_clip(0.1), optax.adaptive_grad_clip(0.1)),
}


def train(optimizer, steps=5, start=0, state=None, weights=None, losses=None):
    """Parameters and state after some compiled steps, and the compiled step."""

    @jax.jit
    def step(weights, state, gradients, loss):
        updates, state = optimizer.update(gradients, state, weights, value=loss)
        return optax.apply_updates(weights, updates), state

    weights = params() if weights is None else weights
    state = optimizer.init(weights) if state is None else state
    for i in range(start, start + steps):
        weights, state = step(
            weights, state, grads(i, scale=1.0 + i), jnp.float32(losses[i] if losses else 1.0)
        )
    return weights, state, step


@pytest.mark.parametrize("name", OURS_AND_OPTAX)
def test_it_equals_optax(name):
    ours, theirs = OURS_AND_OPTAX[name]
    weights = {"dense": params()["dense"]}  # of an embedding optax' units are the columns
    gradients = {"dense": grads()["dense"]}
    transform = clipwise.jax.transform(ours)
    for given in (
        gradients,
        jax.tree.map(lambda g: g * 1e-4, gradients),
        jax.tree.map(jnp.zeros_like, gradients),
    ):
        found, _ = transform.update(given, transform.init(weights), weights)
        expected, _ = theirs.update(given, theirs.init(weights), weights)
        close(found, expected)


def test_after_the_optimizer_it_clips_updates():
    """Adafactor's d for Adam, each against a loop in float64; the gradients may be clipped before it."""
    rate, limit = 0.1, 0.7
    adam = optax.chain(
        optax.scale_by_adam(), clipwise.jax.transform(clipwise.clip_by_block_rms(limit)), optax.scale(-rate)
    )
    optimizer = clipwise.jax.attach(adam, clipwise.clip_by_global_norm(100.0))
    weights, state, step = train(optimizer, steps=0)
    leaves = [np.float64(leaf) for leaf in jax.tree.leaves(weights)]
    m, v = ([np.zeros_like(leaf) for leaf in leaves] for _ in range(2))
    clipped = []
    for t in range(1, 5):
        given = grads(t, scale=10.0**t)
        weights, state = step(weights, state, given, jnp.float32(1.0))
        coefficient = min(1.0, 100.0 / global_norm(given))
        for i, g in enumerate(np.float64(leaf) * coefficient for leaf in jax.tree.leaves(given)):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            u = m[i] / (1 - 0.9**t) / (np.sqrt(v[i] / (1 - 0.999**t)) + 1e-8)
            size = np.sqrt(np.mean(u**2))
            leaves[i] = leaves[i] - rate * u / max(1.0, size / limit)
            clipped.append(size > limit)
        for found, wanted in zip(jax.tree.leaves(weights), leaves, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6)
        share = np.mean(clipped[-len(leaves) :])
        assert float(clipwise.jax.report(state.inner).clip_fraction) == pytest.approx(share)
    assert 0 < np.mean(clipped) < 1
    assert bool(state.report.clipped)  # of the gradients


@pytest.mark.parametrize("name", brief(PRESETS, "agc", "zclip", "schedule", "unit memory", "chain"))
def test_the_state_has_one_form_and_nothing_is_compiled_twice(name):
    optimizer = optax.chain(
        clipwise.jax.transform(PRESETS[name], learning_rate=optax.linear_schedule(0.1, 0.0, 9), momentum=0.9),
        optax.sgd(optax.linear_schedule(0.1, 0.0, 9), momentum=0.9),
    )
    before = optimizer.init(params())
    _, state, step = train(optimizer)
    assert step._cache_size() == 1
    assert jax.tree.structure(state) == jax.tree.structure(before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(state), strict=True):
        assert (old.shape, old.dtype, old.weak_type) == (new.shape, new.dtype, new.weak_type)
    assert int(state[0].clip.step) == 5
    assert float(clipwise.jax.report(before).norm) == 0
    assert float(clipwise.jax.report(state).norm) == pytest.approx(global_norm(grads(4, 5.0)), rel=0.9)


def test_it_is_the_pure_function_step_by_step():
    clip = clipwise.autoclip(50)
    transform = clipwise.jax.transform(clip)
    state, own = transform.init(params()), clipwise.jax.init(clip, params())
    for i in range(5):
        found, state = jax.jit(transform.update)(grads(i), state)
        expected, own, _ = jax.jit(clipwise.jax.clip, static_argnums=0)(clip, grads(i), own)
        same(found, expected)
        same(state.clip, own)


def test_a_schedule_of_the_learning_rate_is_heard():
    clip = clipwise.Clip(thresholds.auto(stretch=1.0, spike=1e6))
    seen = []
    for rate in (optax.linear_schedule(0.4, 0.0, 4), 0.4, None):
        transform = clipwise.jax.transform(clip, learning_rate=rate)
        state = transform.init(params())
        for _ in range(3):
            _, state = jax.jit(transform.update)(grads(), state, params())
        seen.append(float(clipwise.jax.report(state).threshold))
    scheduled, constant, unknown = seen
    assert scheduled == pytest.approx(constant * 2, rel=1e-5)  # T is in inverse proportion to the rate
    assert unknown == pytest.approx(1e6 * global_norm(grads()), rel=1e-5)


def test_the_loss_comes_as_value_or_loss():
    clip = clipwise.Clip(thresholds.reduce_on_instability(4.0, factor=0.5, patience=1))
    for key in ("value", "loss"):
        transform = clipwise.jax.transform(clip)
        state = transform.init(params())
        for i in range(30):
            _, state = jax.jit(transform.update)(grads(i), state, **{key: jnp.float32(1.0 + 1e3 * (i >= 28))})
        assert float(clipwise.jax.report(state).threshold) < 4.0
    with pytest.raises(ParameterError, match="follows the loss"):
        transform.update(grads(), transform.init(params()))


def test_multi_transform_and_masked():
    labels = {"dense": "a", "embed": "b"}
    optimizer = optax.multi_transform(
        {
            "a": optax.chain(clipwise.jax.transform(clipwise.clip_by_global_norm(0.5)), optax.sgd(1.0)),
            "b": clipwise.jax.attach(optax.sgd(1.0), clipwise.adagc(warmup=1)),
        },
        labels,
    )
    _, state, step = train(optimizer, steps=3)
    assert step._cache_size() == 1
    part = clipwise.jax.report(state.inner_states["a"])
    assert part.names == ("dense.bias", "dense.kernel")
    assert float(part.norm) == pytest.approx(global_norm(grads(2, 3.0)["dense"]), rel=1e-6)
    updates, _ = optimizer.update(grads(), optimizer.init(params()), params())
    assert global_norm(updates["dense"]) == pytest.approx(0.5, rel=1e-6)

    masked = optax.masked(
        clipwise.jax.transform(clipwise.clip_by_global_norm(0.5)), {"dense": True, "embed": False}
    )
    updates, _ = masked.update(grads(), masked.init(params()), params())
    assert global_norm(updates["dense"]) == pytest.approx(0.5, rel=1e-6)
    same(updates["embed"], grads()["embed"])


@pytest.mark.parametrize(
    "make", [lambda c, o: optax.chain(clipwise.jax.transform(c), o), lambda c, o: clipwise.jax.attach(o, c)]
)
def test_multi_steps_clips_what_was_accumulated(make):
    clip = clipwise.autoclip(50)
    optimizer = optax.MultiSteps(make(clip, optax.adam(0.1)), 2).gradient_transformation()
    weights, state, step = train(optimizer, steps=6)
    assert step._cache_size() == 1
    plain, expected, own = make(clip, optax.adam(0.1)), params(), None
    own = plain.init(expected)
    for i in range(3):
        first, second = grads(2 * i, 1.0 + 2 * i), grads(2 * i + 1, 2.0 + 2 * i)
        mean = jax.tree.map(lambda a, b: (a + b) / 2, first, second)
        updates, own = plain.update(mean, own, expected)
        expected = optax.apply_updates(expected, updates)
    close(weights, expected, rtol=1e-5)
    found, wanted = clipwise.jax.report(state), clipwise.jax.report(own)
    assert float(found.threshold) == pytest.approx(float(wanted.threshold), rel=1e-5)


def test_inject_hyperparams():
    def make(threshold):
        return optax.chain(clipwise.jax.transform(clipwise.clip_by_global_norm(threshold)), optax.sgd(1.0))

    optimizer = optax.inject_hyperparams(make)(threshold=optax.linear_schedule(4.0, 0.0, 4))
    state = optimizer.init(params())
    update = jax.jit(optimizer.update)
    for expected in (4.0, 3.0, 2.0):
        updates, state = update(grads(), state, params())
        assert global_norm(updates) == pytest.approx(expected, rel=1e-6)
    assert update._cache_size() == 1

    optimizer = optax.inject_hyperparams(make)(threshold=4.0)
    state = optimizer.init(params())
    for expected in (4.0, 0.5):
        state.hyperparams["threshold"] = jnp.float32(expected)
        updates, state = jax.jit(optimizer.update)(grads(), state, params())
        assert global_norm(updates) == pytest.approx(expected, rel=1e-6)

    whole = optax.inject_hyperparams(clipwise.jax.transform)(
        clip=clipwise.Clip(thresholds.auto()), learning_rate=0.5, momentum=0.9
    )
    _, state = jax.jit(whole.update)(grads(), whole.init(params()), params())
    assert float(clipwise.jax.report(state).threshold) > 0


def test_tree_map_params_finds_the_parameters_behind_a_clip():
    optimizer = clipwise.jax.attach(optax.adam(0.1), clipwise.adagc())
    state = optimizer.init(params())
    seen = optax.tree_utils.tree_map_params(
        optimizer, lambda leaf: "parameter", state, transform_non_params=lambda rest: "rest"
    )
    leaves = jax.tree.leaves(seen)
    assert leaves.count("parameter") == 2 * len(jax.tree.leaves(params()))


def test_missing_gradients():
    transform = clipwise.jax.transform(clipwise.adagc(warmup=1))
    state = transform.init(params())
    gradients = {**grads(), "embed": {"embedding": None}}
    found, after = transform.update(gradients, state, params())
    assert found["embed"]["embedding"] is None
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert clipwise.jax.report(after).norms()["embed.embedding"] == 0
    with pytest.raises(ParameterError, match=r"'embed.embedding' was among the parameters.*give params"):
        transform.update(gradients, state)
    nothing = jax.tree.map(lambda _: None, gradients)
    _, after = transform.update(nothing, state, params())
    assert jax.tree.structure(after) == jax.tree.structure(state)
    with pytest.raises(ParameterError, match="'new' was not among"):
        transform.update({**grads(), "new": jnp.ones(2)}, state)


def test_the_report_of_a_chain_of_clips_and_of_parts():
    clip = clipwise.by_name({"dense.*": clipwise.clip_by_norm(1.0), "*": clipwise.clip_by_value(0.1)})
    optimizer = optax.chain(clipwise.jax.transform("clip_by_value(2.0)"), clipwise.jax.transform(clip))
    _, state, _ = train(optimizer, steps=1)
    report = clipwise.jax.report(state)
    assert set(report.parts) == {"dense.*", "*"}
    assert float(report.parts["*"].threshold) == pytest.approx(0.1)
    assert set(report.metrics()) >= {"clipwise/norm", "clipwise/clip_fraction"}
    with pytest.raises(StateError, match="no report in this state"):
        clipwise.jax.report(optax.sgd(0.1).init(params()))


def test_what_is_refused():
    clip = clipwise.clip_by_global_norm(1.0)
    with pytest.raises(ArgumentError, match=r"use clipwise.jax.attach"):
        clipwise.jax.transform(clip, nonfinite="skip")
    with pytest.raises(ArgumentError, match="must be one of"):
        clipwise.jax.transform(clip, nonfinite="ignore")
    with pytest.raises(ArgumentError, match="expected a clip"):
        clipwise.jax.transform(optax.clip(1.0))
    with pytest.raises(ParameterError, match="matches no parameter"):
        clipwise.jax.transform(clipwise.by_name({"decoder.*": clip})).init(params())
    with pytest.raises(StateError, match=r"expected the state of clipwise.jax.transform"):
        clipwise.jax.transform(clip).update(grads(), optax.EmptyState())
    agc = clipwise.jax.transform(clipwise.adaptive_grad_clip())
    for update in (agc.update, jax.jit(agc.update)):
        with pytest.raises(ParameterError, match="give the parameters"):
            update(grads(), agc.init(params()))
    strict = clipwise.jax.transform(clip, nonfinite="error")
    with pytest.raises(NonFiniteError, match=r"dense.bias"):
        strict.update(jax.tree.map(lambda g: g * jnp.nan, grads()), strict.init(params()))
    with pytest.raises(ArgumentError, match="compiled"):
        jax.jit(strict.update)(grads(), strict.init(params()))
    np.testing.assert_allclose(global_norm(strict.update(grads(), strict.init(params()))[0]), 1.0, rtol=1e-6)
