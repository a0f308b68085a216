"""What is TensorFlow's own: rows of embeddings, graphs, and several replicas."""

import functools

import keras
import numpy as np
import pytest

import clipwise
from clipwise.errors import ArgumentError
from tests.keras.on_backend import nets

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow alone")

ROWS = [2, 0, 2, 5, 2]
VALUES = np.random.default_rng(3).normal(size=(5, 3)).astype("float32")


@pytest.fixture(scope="module")
def tf():
    import tensorflow

    return tensorflow


@pytest.mark.parametrize(
    ("clip", "jit"),
    [
        ("clip_by_norm(0.5)", None),
        ("clip_by_norm(0.5)", True),
        ("clip_by_value(0.2)", None),
        ("adaptive_grad_clip(0.1)", None),
        (clipwise.clip_by_value(low=0.1, high=0.2), None),
    ],
    ids=str,
)
def test_rows_are_summed_before_they_are_measured(tf, clip, jit):
    found = []
    for dense in (False, True):
        table = keras.Variable(np.ones((7, 3), "float32"), name="embeddings")
        optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), clip)
        optimizer.build([table])
        gradient = tf.IndexedSlices(VALUES, tf.constant(ROWS), tf.constant([7, 3]))

        given = tf.convert_to_tensor(gradient) if dense else gradient
        step = functools.partial(optimizer.apply, [given], [table])
        (step if jit is None else tf.function(step, jit_compile=jit))()
        found.append((table.numpy(), clipwise.keras.report(optimizer).metrics()))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-6)
    np.testing.assert_allclose(*(list(report.values()) for _, report in found), rtol=1e-6)


@pytest.mark.parametrize("clip", ["autoclip"])
def test_replicas_clip_their_sum(tf, clip):
    bad = nets.X.copy()
    bad[20, 1] = np.nan

    def made():
        return clipwise.keras.attach(keras.optimizers.AdamW(0.02, use_ema=True, ema_momentum=0.5), clip)

    one = nets.fitted(made(), bad)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = nets.net()
        model.compile(made(), loss="mse")
    model.fit(bad, nets.Y, batch_size=8, shuffle=False, verbose=0)
    for two, other in zip(model.get_weights(), one.get_weights(), strict=True):
        np.testing.assert_allclose(two, other, rtol=1e-5, atol=1e-6)
    reports = [clipwise.keras.report(m.optimizer) for m in (model, one)]
    np.testing.assert_allclose(*(float(report.norm) for report in reports), rtol=1e-5)


def test_a_step_that_was_compiled_is_not_changed_behind_its_back(tf):
    model = nets.fitted(keras.optimizers.SGD(nets.RATE))
    with pytest.raises(ArgumentError, match="give model="):
        clipwise.keras.attach(model.optimizer, "clip_by_norm(1.0)")
    clipwise.keras.attach(model.optimizer, "clip_by_norm(0.0)", model=model)
    before = model.get_weights()
    model.fit(nets.X, nets.Y, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
