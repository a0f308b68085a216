"""An optimizer behind a clip: skipped steps, checkpoints, what is refused."""

import importlib.util
import pickle

import jax
import jax.numpy as jnp
import optax
import pytest

import clipwise
import clipwise.jax
from clipwise import thresholds
from clipwise.errors import ArgumentError, ParameterError, StateError
from tests.depth import brief
from tests.thresholds import oracles

from .test_clip import PRESETS
from .test_transform import train
from .trees import close, global_norm, grads, params, same

BAD = {"NaN": jnp.nan, "Inf": jnp.inf, "-Inf": -jnp.inf}


def spoiled(value):
    gradients = grads()
    gradients["dense"]["kernel"] = gradients["dense"]["kernel"].at[2, 3].set(value)
    return gradients


def optimizers():
    return {
        "adamw": optax.adamw(0.1, weight_decay=0.1),
        "momentum": optax.sgd(optax.linear_schedule(0.1, 0.0, 20), momentum=0.9),
        "noise": optax.chain(optax.add_noise(0.1, 0.5, key=jax.random.key(0)), optax.scale(-0.1)),
        "mixed": optax.multi_transform(
            {"a": optax.adam(0.1), "b": optax.set_to_zero()}, {"dense": "a", "embed": "b"}
        ),
        "injected": optax.inject_hyperparams(optax.adam)(learning_rate=0.1),
    }


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "eager"])
@pytest.mark.parametrize("name", optimizers())
def test_a_skipped_step_leaves_everything_as_it_was(name, compiled):
    optimizer = clipwise.jax.attach(optimizers()[name], clipwise.clip_by_global_norm(1.0))
    update = jax.jit(optimizer.update) if compiled else optimizer.update
    weights = params()
    _, state = update(grads(), optimizer.init(weights), weights)
    for value in BAD.values() if compiled else [jnp.nan]:
        check_skipped(update, value, weights, state)


def test_a_spike_that_is_skipped_leaves_everything_as_it_was():
    clip = clipwise.chain(clipwise.Clip(1e3, action="skip"), clipwise.autoclip(50))
    optimizer = clipwise.jax.attach(optimizers()["adamw"], clip, nonfinite="propagate")
    update, weights = jax.jit(optimizer.update), params()
    _, state = update(grads(), optimizer.init(weights), weights)
    check_skipped(update, 1e6, weights, state)
    _, after = update(spoiled(1e6), state, weights)
    same(after.clip.thresholds[1], state.clip.thresholds[1])


def test_one_member_of_a_chain_cannot_skip():
    with pytest.raises(ArgumentError, match=r"^skip_spikes\(\) cannot stop what comes after it"):
        clipwise.jax.transform("skip_spikes()")


def test_spikes_are_skipped_as_by_a_plain_loop():
    optimizer = clipwise.jax.attach(optax.sgd(1.0), clipwise.skip_spikes(4.0, window=8, patience=2))
    norms = [1.0, 2.0, 3.0, 2.0, 1.5, 90.0, 2.5, jnp.nan, 80.0, 70.0, 60.0, jnp.inf, 60.0, 2.0, 500.0, 1.0]
    weights = {"w": jnp.zeros(2)}

    def step(state, norm):
        _, state = optimizer.update({"w": norm * jnp.array([0.6, 0.8])}, state, weights)
        return state, (state.report.threshold, state.report.skipped)

    _, (found, skipped) = jax.lax.scan(step, optimizer.init(weights), jnp.array(norms))
    wanted, left_out = zip(*oracles.skip_spikes(norms, 4.0, 8, 2), strict=True)
    assert skipped.tolist() == list(left_out)
    assert sum(left_out) == 6
    assert found.tolist() == pytest.approx(wanted, rel=1e-5, nan_ok=True)


def test_steps_are_skipped_by_their_loss_as_by_a_plain_loop():
    clip = clipwise.skip_spikes(4.0, window=8, patience=2, on="loss")
    optimizer = clipwise.jax.attach(optax.sgd(1.0), clip)
    weights = {"w": jnp.zeros(2)}

    def step(state, loss):
        updates, state = optimizer.update({"w": jnp.array([3.0, 4.0])}, state, weights, value=loss)
        return state, (state.report.skipped, updates["w"])

    _, (skipped, updates) = jax.lax.scan(step, optimizer.init(weights), jnp.array(oracles.LOSSES))
    wanted = oracles.skip_losses(oracles.LOSSES, 4.0, 8, 2)
    assert skipped.tolist() == wanted
    assert updates.tolist() == [[0.0, 0.0] if left else [-3.0, -4.0] for left in wanted]
    with pytest.raises(ParameterError, match="follows the loss"):
        optimizer.update({"w": jnp.zeros(2)}, optimizer.init(weights), weights)


def check_skipped(update, value, weights, state):
    updates, after = update(spoiled(value), state, weights)
    same(optax.apply_updates(weights, updates), weights)
    same(updates, jax.tree.map(jnp.zeros_like, weights))
    same(after.inner, state.inner)
    assert (int(after.skipped_steps), int(after.clip.step)) == (1, 2)
    report = clipwise.jax.report(after)
    assert bool(report.skipped)
    assert report.worst == "dense.kernel"
    # And it goes on as if that step had not been.
    there, _ = update(grads(5), after, weights)
    straight, _ = update(grads(5), state, weights)
    same(there, straight)


def test_the_threshold_learns_nothing_from_a_skipped_step_and_hears_its_loss():
    optimizer = clipwise.jax.attach(optax.sgd(0.1), clipwise.autoclip(50))
    weights, state, _ = train(optimizer, steps=3)
    _, after = optimizer.update(spoiled(jnp.nan), state, weights)
    same(after.clip.thresholds, state.clip.thresholds)

    clip = clipwise.Clip(thresholds.reduce_on_instability(4.0, factor=0.5, patience=1))
    optimizer = clipwise.jax.attach(optax.sgd(0.1), clip)
    state = optimizer.init(params())
    for _ in range(30):
        _, state = optimizer.update(grads(), state, value=1.0)
    _, state = optimizer.update(spoiled(jnp.nan), state, value=jnp.nan)
    _, state = optimizer.update(grads(), state, value=1.0)
    assert float(clipwise.jax.report(state).threshold) < 4.0


def test_without_anything_bad_it_is_the_chain():
    clip = clipwise.autoclip(50)
    weights, _, step = train(clipwise.jax.attach(optax.adam(0.1), clip))
    expected, _, _ = train(optax.chain(clipwise.jax.transform(clip), optax.adam(0.1)))
    close(weights, expected, rtol=1e-6)
    assert step._cache_size() == 1


def test_a_schedule_counts_the_steps_that_were_taken():
    clip = clipwise.Clip(thresholds.auto())
    optimizer = clipwise.jax.attach(optax.sgd(0.1), clip, learning_rate=optax.linear_schedule(0.4, 0.0, 4))
    state = optimizer.init(params())
    for gradients in (grads(), spoiled(jnp.nan), spoiled(jnp.nan), grads()):
        _, state = optimizer.update(gradients, state, params())
    straight = optimizer.init(params())
    for gradients in (grads(), grads()):
        _, straight = optimizer.update(gradients, straight, params())
    found, expected = clipwise.jax.report(state), clipwise.jax.report(straight)
    assert float(found.threshold) == pytest.approx(float(expected.threshold), rel=1e-6)


def test_the_other_words_for_nonfinite():
    zeroed = clipwise.jax.attach(optax.sgd(1.0), clipwise.clip_by_global_norm(1.0), nonfinite="zero")
    updates, state = jax.jit(zeroed.update)(spoiled(jnp.inf), zeroed.init(params()), params())
    assert global_norm(updates) == pytest.approx(1.0, rel=1e-6)
    assert int(state.skipped_steps) == 0
    through = clipwise.jax.attach(optax.sgd(1.0), clipwise.clip_by_global_norm(1.0), nonfinite="propagate")
    updates, _ = through.update(spoiled(jnp.nan), through.init(params()), params())
    assert jnp.isnan(updates["dense"]["bias"]).all()


def test_extra_arguments_reach_the_optimizer():
    optimizer = clipwise.jax.attach(optax.polyak_sgd(), clipwise.clip_by_global_norm(1.0))
    plain = optax.chain(clipwise.jax.transform(clipwise.clip_by_global_norm(1.0)), optax.polyak_sgd())
    found, _ = optimizer.update(grads(), optimizer.init(params()), params(), value=2.0)
    expected, _ = plain.update(grads(), plain.init(params()), params(), value=2.0)
    close(found, expected)


SAVERS = {"pickle": "pickle", "flax": "flax.serialization", "orbax": "orbax.checkpoint"}


def saved_and_read(how, state, form, folder):
    if how == "pickle":
        return pickle.loads(pickle.dumps(jax.device_get(state)))
    if how == "flax":
        serialization = pytest.importorskip("flax.serialization")
        return serialization.from_bytes(form, serialization.to_bytes(state))
    orbax = pytest.importorskip("orbax.checkpoint")
    checkpointer = orbax.StandardCheckpointer()
    checkpointer.save(folder / "state", state)
    checkpointer.wait_until_finished()
    return checkpointer.restore(folder / "state", form)


@pytest.mark.parametrize("name", brief(["autoclip", "adagc", "auto", "chain", "by name"], "autoclip"))
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(name, tmp_path):
    savers = [how for how, module in SAVERS.items() if importlib.util.find_spec(module.split(".")[0])]
    if "flax" in savers:
        importlib.import_module(SAVERS["flax"])
    optimizer = clipwise.jax.attach(optax.adam(0.1), PRESETS[name], learning_rate=0.1)
    weights, state, step = train(optimizer, steps=2)

    def go_on(weights, state):
        for i in range(2, 5):
            weights, state = step(weights, state, grads(i, scale=1.0 + i), jnp.float32(1.0))
        return weights, state

    expected = go_on(weights, state)
    for how in savers:
        same(go_on(weights, saved_and_read(how, state, optimizer.init(weights), tmp_path)), expected)


def test_what_is_refused():
    clip = clipwise.clip_by_global_norm(1.0)
    for thing in (optax.adam, None, 0.1, params(), "adam"):
        with pytest.raises(ArgumentError, match="expected an optimizer of optax"):
            clipwise.jax.attach(thing, clip)
    with pytest.raises(ArgumentError, match="did you call it"):
        clipwise.jax.attach(optax.adam, clip)
    with pytest.raises(ArgumentError, match=r"optax.MultiSteps\(clipwise.jax.attach"):
        clipwise.jax.attach(optax.MultiSteps(optax.sgd(0.1), 2), clip)
    with pytest.raises(ArgumentError, match="must be one of"):
        clipwise.jax.attach(optax.sgd(0.1), clip, nonfinite="ignore")
    for given in ({"learning_rate": "x"}, {"momentum": "x"}, {"momentum": -0.1}):
        with pytest.raises(ArgumentError, match="must be a number of at least 0"):
            clipwise.jax.attach(optax.sgd(0.1), clip, **given)
    with pytest.raises(StateError, match=r"expected the state of clipwise.jax.attach"):
        clipwise.jax.attach(optax.sgd(0.1), clip).update(grads(), optax.sgd(0.1).init(params()))
