"""Weights that are bounded after every step, against the same by hand in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import clipwise
import clipwise.jax as cj
from clipwise import Clip, thresholds
from clipwise.errors import ArgumentError, ParameterError, StateError

RNG = np.random.default_rng(5)
PARAMS = {"dense": {"kernel": RNG.normal(size=(4, 3)), "bias": RNG.normal(size=3)}}


def start(dtype="float32"):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), PARAMS)


def grads_of(step):
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), "float32"), PARAMS)


def by_value(w):
    return np.clip(w, -0.1, 0.1)


def by_unit(w):
    axes = 0 if w.ndim > 1 else None
    norms = np.sqrt((w.astype("float64") ** 2).sum(axes))
    return w * np.minimum(1.0, 0.5 / norms)


CLIPS = {
    "wgan": (clipwise.clip_by_value(0.1), by_value),
    "range": (Clip((-0.1, 0.1), per="element"), by_value),
    "max norm": (Clip(0.5, per="unit"), by_unit),
}


@pytest.mark.parametrize("way", ["chain", "attach"])
@pytest.mark.parametrize("kind", CLIPS)
def test_after_every_step(kind, way):
    clip, by_hand = CLIPS[kind]
    if way == "chain":
        optimizer = optax.chain(optax.rmsprop(0.05), cj.clip_weights(clip))
    else:
        optimizer = cj.attach(optax.rmsprop(0.05), weights=clip)
    plain = optax.rmsprop(0.05)
    params, reference = start(), start()
    state, own = optimizer.init(params), plain.init(reference)
    update = jax.jit(optimizer.update)
    for step in range(6):
        updates, state = update(grads_of(step), state, params)
        params = optax.apply_updates(params, updates)
        updates, own = plain.update(grads_of(step), own, reference)
        reference = jax.tree.map(lambda w: by_hand(np.asarray(w)), optax.apply_updates(reference, updates))
        for found, wanted in zip(*map(jax.tree.leaves, (params, reference)), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-7)
    assert update._cache_size() == 1
    report = cj.weights_report(state)
    assert report.names == ("dense.bias", "dense.kernel")
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    if kind == "max norm":
        norms = [np.linalg.norm(leaves[0]), *np.linalg.norm(leaves[1], axis=0)]
        at = np.mean([norm >= 0.5 * (1 - 1e-5) for norm in norms])
    else:
        at = np.mean(
            np.abs(np.concatenate([leaf.ravel() for leaf in leaves])) >= np.float32(0.1) * (1 - 1e-6)
        )
    assert 0 < at < 1 or kind == "max norm"
    assert float(report.at_bound) == pytest.approx(at)
    assert report.metrics()["clipwise/at_bound"] == pytest.approx(at)


def test_at_bound_counts_weights_that_stay_there():
    """Once there, a weight without an update is clipped no more, and stands at the bound still."""
    optimizer = cj.attach(optax.sgd(1.0), weights="clip_by_value(0.25)")
    params = {"w": jnp.array([2.0, -0.25, 0.1, 0.0])}
    state = optimizer.init(params)
    assert float(cj.weights_report(state).at_bound) == 0
    zeros = {"w": jnp.zeros(4)}
    for clipped in (0.25, 0.0):
        updates, state = optimizer.update(zeros, state, params)
        params = optax.apply_updates(params, updates)
        report = cj.weights_report(state)
        assert float(report.clip_fraction) == clipped
        assert float(report.at_bound) == 0.5
    assert params["w"].tolist() == [0.25, -0.25, float(np.float32(0.1)), 0.0]


def test_what_is_within_stays_to_the_bit():
    optimizer = cj.clip_weights("clip_by_value(1e6)")
    params, updates = start(), grads_of(0)
    found, _ = optimizer.update(updates, optimizer.init(params), params)
    for one, other in zip(*map(jax.tree.leaves, (found, updates)), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_bound_is_exact_once_weights_are_within(dtype):
    """The bound to one rounding, and mostly to the bit, from weights that are within it."""
    rng = np.random.default_rng(2)
    bound = jnp.asarray(0.01, dtype)
    params = {"w": jnp.clip(jnp.asarray(rng.normal(size=4000) * 0.01, dtype), -bound, bound)}
    optimizer = cj.clip_weights("clip_by_value(0.01)")
    updates = {"w": jnp.asarray(rng.normal(size=4000), dtype)}
    found, _ = optimizer.update(updates, optimizer.init(params), params)
    after = optax.apply_updates(params, found)["w"]
    assert after.dtype == bound.dtype
    beyond = np.abs(np.asarray(params["w"] + updates["w"], "float32")) >= 0.01
    off = np.abs(np.abs(np.asarray(after, "float64"))[beyond] / float(bound) - 1)
    assert off.max() <= float(jnp.finfo(dtype).eps)
    assert (off == 0).mean() > 0.8


def test_a_skipped_step_leaves_the_weights_and_their_report():
    optimizer = cj.attach(optax.sgd(1.0), "clip_by_global_norm(1.0)", weights="clip_by_value(0.1)")
    params = {"w": jnp.array([3.0, 0.0])}
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": jnp.array([jnp.nan, 0.0])}, state, params)
    assert updates["w"].tolist() == [0.0, 0.0]
    assert int(state.skipped_steps) == 1
    assert float(cj.weights_report(state).at_bound) == 0.0
    updates, state = optimizer.update({"w": jnp.array([30.0, 40.0])}, state, params)
    assert optax.apply_updates(params, updates)["w"].tolist() == pytest.approx([0.1, -0.1], rel=1e-5)
    assert float(cj.report(state).norm) == 50.0  # of the gradients, not of the weights
    assert float(cj.weights_report(state).at_bound) == 1.0


def test_accumulation_outside_bounds_after_the_real_steps_only():
    optimizer = optax.MultiSteps(cj.attach(optax.sgd(1.0), weights="clip_by_value(0.1)"), 2)
    params = {"w": jnp.array([3.0, 0.0])}
    state = optimizer.init(params)
    seen = []
    for _ in range(2):
        updates, state = optimizer.update({"w": jnp.ones(2)}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(params["w"].tolist())
    assert seen[0] == [3.0, 0.0]
    np.testing.assert_allclose(seen[1], [0.1, -0.1], rtol=1e-5)


def test_parts_by_name_chains_and_schedules():
    clip = clipwise.by_name({"*.kernel": clipwise.clip_by_value(0.1), "*": None})
    optimizer = cj.clip_weights(clip)
    params = {"dense": {"kernel": jnp.full((3, 1), 2.0), "bias": jnp.full((1,), 2.0)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, state = optimizer.update(zeros, optimizer.init(params), params)
    after = optax.apply_updates(params, updates)
    np.testing.assert_allclose(after["dense"]["kernel"], 0.1, rtol=2e-6)
    assert after["dense"]["bias"].tolist() == [2.0]
    # Of the two tensors one, as in clip_fraction, however many entries each has.
    assert float(state.report.clip_fraction) == float(state.report.at_bound) == 0.5

    optimizer = cj.clip_weights(clipwise.chain(clipwise.clip_by_value(1.0), Clip(0.5, per="tensor")))
    params = {"w": jnp.array([3.0, 0.0, 0.0, 0.0])}
    _, state = optimizer.update({"w": jnp.zeros(4)}, optimizer.init(params), params)
    assert float(state.report.at_bound) == 1.0  # the tensor; of the entries none stands at 1 any more


def test_at_bound_is_unknown_where_each_group_has_a_threshold_of_its_own():
    """Weights of norms 1 and 10 under 2 and 20: the smallest threshold says nothing of the second."""
    params = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([10.0, 0.0])}
    zeros = jax.tree.map(jnp.zeros_like, params)
    for per, known in (("tensor", False), ("unit", False), ("global", True)):
        optimizer = cj.clip_weights(Clip(thresholds.mean(2.0), per=per))
        _, state = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
        assert bool(jnp.isfinite(state.report.at_bound)) == known


def test_missing_updates_are_left_alone():
    optimizer = cj.clip_weights("clip_by_value(0.1)")
    params = {"a": jnp.array([5.0]), "b": jnp.array([5.0])}
    updates, state = optimizer.update({"a": jnp.zeros(1), "b": None}, optimizer.init(params), params)
    assert updates["b"] is None
    np.testing.assert_allclose(updates["a"], -4.9)
    assert state.report.norms() == {"a": 5.0, "b": 0.0}


def test_refused():
    params = {"w": jnp.zeros(2)}
    with pytest.raises(ArgumentError, match="or weights="):
        cj.attach(optax.sgd(1.0))
    with pytest.raises(ArgumentError, match="expected a clip"):
        cj.clip_weights(0.01)
    for make in (cj.clip_weights, lambda clip: cj.attach(optax.sgd(1.0), weights=clip)):
        with pytest.raises(ArgumentError, match="cannot follow the loss, as reduce_on_instability"):
            make(Clip(thresholds.reduce_on_instability(1.0)))
    optimizer = cj.clip_weights("clip_by_value(0.1)")
    state = optimizer.init(params)
    with pytest.raises(ParameterError, match=r"update\(updates, state, params\)"):
        optimizer.update(params, state)
    with pytest.raises(StateError, match=r"state of clipwise\.jax\.clip_weights"):
        optimizer.update(params, (), params)
    with pytest.raises(StateError, match="no report of weights"):
        cj.weights_report(optax.sgd(1.0).init(params))
    with pytest.raises(StateError, match="no report in this state"):
        cj.report(state)
