"""What is remembered: through functions, loops and checkpoints, without another trace."""

import copy
import pickle

import numpy as np
import pytest
import tensorflow as tf

import clipwise
import clipwise.tensorflow as ct
from clipwise import Clip
from clipwise.errors import StateError, ThresholdError
from clipwise.thresholds import linear, mean, percentile, quantile_ema, reduce_on_instability
from tests.thresholds import oracles

CLIPS = {
    "fixed": clipwise.clip_by_global_norm(1.0),
    "window": clipwise.autoclip(50, window=4),
    "autoclip": clipwise.autoclip(50),
    "zclip": clipwise.zclip(warmup=2),
    "adagc": clipwise.adagc(warmup=2),
    "auto": clipwise.auto(),
    "mean": Clip(mean(), per="tensor"),
    "quantile": Clip(quantile_ema(), per="unit"),
    "linear": Clip(linear(5.0, 0.5, 4), per="element"),
    "instability": Clip(reduce_on_instability(1.0, patience=1), per="global"),
    "chain": clipwise.chain(clipwise.clip_by_value(1.0), Clip(percentile(50, 3), per="unit")),
    "by name": clipwise.by_name({"kernel": clipwise.zclip(), "*": clipwise.autoclip(20)}),
}
VARIABLES = [tf.Variable(tf.ones((3, 2)), name="kernel"), tf.Variable(tf.ones(2), name="bias")]


def gradients(step):
    rng = np.random.default_rng(step)
    return [tf.constant(rng.normal(size=v.shape) * (1 + step % 3), tf.float32) for v in VARIABLES]


@pytest.fixture(params=CLIPS)
def clip(request):
    return CLIPS[request.param]


def stepper(clip, way):
    @way
    def step(grads, state, loss):
        return ct.clip(clip, grads, state, VARIABLES, loss=loss, learning_rate=0.1)

    return step


def train(step, state, steps):
    found = []
    for number in steps:
        grads, state, _ = step(gradients(number), state, tf.constant(1.0 + number % 5))
        found += [g.numpy() for g in grads]
    return found, state


def test_one_trace_for_all_steps_and_what_eager_gives(clip):
    step = stepper(clip, tf.function)
    found, state = train(step, ct.init(clip, VARIABLES), range(5))
    assert step.experimental_get_tracing_count() == 1
    assert int(state.step) == 5
    expected, _ = train(stepper(clip, lambda function: function), None, range(5))
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("name", ["zclip", "chain"])
def test_a_loop_in_the_graph(name):
    clip = CLIPS[name]
    state = ct.init(clip, VARIABLES)

    @tf.function
    def loop(state, total):
        for number in tf.range(5):
            grads = [v * tf.cast(number + 1, tf.float32) for v in VARIABLES]
            grads, state, _ = ct.clip(clip, grads, state, VARIABLES, loss=1.0, learning_rate=0.1)
            total += tf.reduce_sum(grads[0])
        return state, total

    after, total = loop(state, 0.0)
    expected = 0.0
    for number in range(5):
        grads = [v * float(number + 1) for v in VARIABLES]
        grads, state, _ = ct.clip(clip, grads, state, VARIABLES, loss=1.0, learning_rate=0.1)
        expected += float(tf.reduce_sum(grads[0]))
    assert float(total) == pytest.approx(expected, rel=1e-5)
    for got, wanted in zip(tf.nest.flatten(after), tf.nest.flatten(state), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", ["window", "adagc"])
def test_a_run_that_is_saved_and_resumed_equals_one_that_was_not(name, tmp_path):
    clip = CLIPS[name]
    step = stepper(clip, tf.function)
    whole, _ = train(step, ct.init(clip, VARIABLES), range(6))

    first, state = train(step, ct.init(clip, VARIABLES), range(3))
    kept = tf.nest.map_structure(tf.Variable, ct.init(clip, VARIABLES))
    tf.nest.map_structure(lambda variable, value: variable.assign(value), kept, state)
    path = tf.train.Checkpoint(clip=tf.nest.flatten(kept)).save(str(tmp_path / "run"))

    other = tf.nest.map_structure(tf.Variable, ct.init(clip, VARIABLES))
    tf.train.Checkpoint(clip=tf.nest.flatten(other)).restore(path).assert_consumed()
    second, _ = train(stepper(clip, tf.function), other, range(3, 6))
    for got, wanted in zip([*first, *second], whole, strict=True):
        assert got.tobytes() == wanted.tobytes()


@pytest.mark.parametrize("way", ["eager", "function"], indirect=True)
def test_a_report_goes_in_and_out_of_a_function(way):
    clip = clipwise.chain(clipwise.clip_by_value(1.0), CLIPS["by name"])

    @way
    def step(grads):
        return {"found": ct.clip(clip, grads, None, VARIABLES)}

    _, state, report = step(gradients(2))["found"]
    assert isinstance(report, clipwise.ClipReport)
    assert isinstance(state, ct.ClipState)
    assert report.names == ("kernel", "bias")
    assert set(report.parts) == {"0", "1"}
    assert set(report.parts["1"].parts) == {"kernel", "*"}
    assert all(isinstance(leaf, tf.Tensor) for leaf in tf.nest.flatten(report) if leaf is not None)
    assert report.metrics(per_tensor=True)["clipwise/norm/kernel"] > 0

    @way
    def norm(report):
        return report.norm + report.parts["0"].norm

    assert float(norm(report)) == pytest.approx(2 * float(report.norm))
    doubled = tf.nest.map_structure(lambda x: x if x is None or x.dtype == tf.bool else 2 * x, report)
    assert float(doubled.norm) == 2 * float(report.norm)


def test_a_state_that_does_not_fit_is_refused():
    grads = gradients(0)
    state = ct.init(clipwise.autoclip(10), VARIABLES)
    with pytest.raises(StateError, match="another clip"):
        ct.clip(clipwise.zclip(), grads, state, VARIABLES)
    per_tensor = Clip(mean(), per="tensor")
    with pytest.raises(StateError, match="other variables"):
        ct.clip(per_tensor, grads, ct.init(per_tensor, VARIABLES[:1]), VARIABLES)
    with pytest.raises(StateError, match="expected the ClipState"):
        ct.clip(per_tensor, grads, {"step": 0}, VARIABLES)


def test_a_step_without_some_gradient_leaves_its_memory_alone(way):
    clip = Clip(mean(factor=1.0, decay=0.5), per="tensor")

    @way
    def step(kernel, state):
        return ct.clip(clip, [kernel, None], state, VARIABLES)

    state = ct.init(clip, VARIABLES)
    for _ in range(2):
        (_, missing), state, report = step(tf.ones((3, 2)), state)
    assert missing is None
    assert report.names == ("kernel",)
    assert state.thresholds.weight.numpy().tolist() == [0.75, 0.0]


def test_a_skipped_step_teaches_nothing(way):
    clip = clipwise.autoclip(50)
    step = way(lambda grads, state: ct.clip(clip, grads, state, nonfinite="skip"))
    state = ct.init(clip, [tf.constant([1.0])])
    _, state, _ = step([tf.constant([np.nan])], state)
    assert int(state.step) == 1
    assert int(state.thresholds.count) == 0


def test_steps_are_skipped_by_their_loss_as_by_a_plain_loop(way):
    clip = clipwise.skip_spikes(4.0, window=8, patience=2, on="loss")
    step = way(lambda grads, state, loss: ct.clip(clip, grads, state, loss=loss))
    grads = [tf.constant([3.0])]
    state, skipped = ct.init(clip, grads), []
    for loss in oracles.LOSSES:
        (found,), state, report = step(grads, state, tf.constant(loss))
        skipped.append(bool(report.skipped))
        assert found.numpy().tolist() == [0.0 if skipped[-1] else 3.0]
    assert skipped == oracles.skip_losses(oracles.LOSSES, 4.0, 8, 2)


def test_a_schedule_that_gives_less_than_zero_counts_as_zero_in_a_trace():
    clip = Clip(clipwise.thresholds.schedule(lambda step: 1.0 - tf.cast(step, tf.float32)))
    step = tf.function(lambda grads, state: ct.clip(clip, grads, state)[:2])
    state, grads = ct.init(clip, VARIABLES), gradients(0)
    for _ in range(3):
        found, state = step(grads, state)
    assert not any(g.numpy().any() for g in found)
    with pytest.raises(ThresholdError, match="-1"):
        tf.function(lambda: ct.clip(Clip(-1), grads)[0])()


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_states_and_reports_are_copied_and_pickled(way):
    clip, grads = clipwise.autoclip(10), [tf.constant([3.0, 4.0])]
    _, state, report = ct.clip(clip, grads)
    assert str(way(report)) == str(report)
    found, expected = (ct.clip(clip, grads, one)[1] for one in (way(state), state))
    for one, other in zip(tf.nest.flatten(found), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
