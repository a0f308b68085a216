"""A `GradientTape` loop against the same loop by hand in float64 numpy."""

import numpy as np
import pytest
import tensorflow as tf

import clipwise
import clipwise.tensorflow as ct

from .conftest import WAYS

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(64, 5)), RNG.normal(size=(64, 3))
START = RNG.normal(size=(5, 3))
RATE, STEPS = 0.2, 12


def by_hand(threshold_of):
    weights, bias, norms = START.copy(), np.zeros(3), []
    for _ in range(STEPS):
        error = 2.0 * (X @ weights + bias - Y) / Y.size
        gradients = X.T @ error, error.sum(0)
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        norms.append(norm)
        share = min(1.0, threshold_of(norms) / norm)
        weights, bias = weights - RATE * share * gradients[0], bias - RATE * share * gradients[1]
    return weights, bias, norms


LEARNED = (clipwise.autoclip(30, window=5), lambda norms: np.percentile(norms[-5:], 30))
FIXED = (clipwise.clip_by_global_norm(0.3), lambda norms: 0.3)


@pytest.mark.parametrize(
    ("clip", "threshold_of", "ran", "dtype", "rtol"),
    [
        (*LEARNED, "eager", "float64", 1e-10),
        (*LEARNED, "function", "float64", 1e-10),
        (*LEARNED, "xla", "float64", 1e-10),
        (*FIXED, "function", "float64", 1e-10),
        (*FIXED, "function", "float32", 2e-5),
    ],
)
def test_a_training_loop(ran, clip, threshold_of, dtype, rtol):
    x, y = tf.constant(X, dtype), tf.constant(Y, dtype)
    variables = [tf.Variable(START, dtype=dtype), tf.Variable(tf.zeros(3, dtype))]

    @WAYS[ran]
    def step(state):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((x @ variables[0] + variables[1] - y) ** 2)
        grads, state, report = ct.clip(clip, tape.gradient(loss, variables), state, variables)
        for variable, gradient in zip(variables, grads, strict=True):
            variable.assign_sub(RATE * gradient)
        return state, report

    state, norms = ct.init(clip, variables), []
    for _ in range(STEPS):
        state, report = step(state)
        norms.append(float(report.norm))
    weights, bias, expected = by_hand(threshold_of)
    np.testing.assert_allclose(norms, expected, rtol=rtol)
    np.testing.assert_allclose(variables[0].numpy(), weights, rtol=rtol)
    np.testing.assert_allclose(variables[1].numpy(), bias, rtol=rtol, atol=rtol)


def test_with_an_optimizer_and_a_model_of_keras():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "tensorflow":
        pytest.skip("Keras runs on another back end in this process")
    model = keras.Sequential([keras.layers.Dense(3, name="dense")])
    model.build((None, 5))
    optimizer = keras.optimizers.SGD(RATE)
    clip = clipwise.clip_by_norm(0.1)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((model(tf.constant(X, tf.float32)) - tf.constant(Y, tf.float32)) ** 2)
        variables = model.trainable_variables
        grads, _, report = ct.clip(clip, tape.gradient(loss, variables), None, variables)
        optimizer.apply_gradients(zip(grads, variables, strict=True))
        return report

    before = [v.numpy().copy() for v in model.trainable_variables]
    report = step()
    assert [name.rpartition(".")[2] for name in report.names] == ["kernel", "bias"]
    moved = [np.linalg.norm(v.numpy() - b) for v, b in zip(model.trainable_variables, before, strict=True)]
    expected = [RATE * min(0.1, norm) for norm in report.norms().values()]
    np.testing.assert_allclose(moved, expected, rtol=1e-4)
