"""Clipped gradients of single examples in TensorFlow: against each by hand, and against PyTorch's."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import clipwise
import clipwise.tensorflow as ct
from clipwise import thresholds
from clipwise.errors import ArgumentError, StateError

RNG = np.random.default_rng(5)
X, Y = RNG.normal(size=(7, 4)), RNG.normal(size=7)
A = tf.Variable(RNG.normal(size=(4, 6)), name="a")
B = tf.Variable(RNG.normal(size=6), name="b")


def loss_fn(x, y):
    return (tf.tensordot(tf.tanh(tf.tensordot(x, A, 1)), B, 1) - y) ** 2


def rows():
    """Of ``(tanh(x a) b - y)^2``, by hand."""
    found = []
    for x, y in zip(X, Y, strict=True):
        h = np.tanh(x @ A.numpy())
        slope = 2 * (h @ B.numpy() - y)
        found.append([slope * np.outer(x, (1 - h**2) * B.numpy()), slope * h])
    return found


def norms():
    return np.array([np.sqrt(sum((one**2).sum() for one in row)) for row in rows()])


def test_sums_of_clipped_gradients_in_micro_batches_with_padding_and_examples_that_are_not_finite():
    step = ct.per_example(loss_fn, clipwise.clip_by_global_norm(1.0), micro_batch=5, nonfinite="drop")
    x, y = np.concatenate([X, np.full((2, 4), 100.0)]), np.concatenate([Y, np.zeros(2)])
    gradients, state, report = step({"a": A, "b": B}, x, y, mask=np.arange(9) < 7)
    exact = [
        sum(c * row[k] for c, row in zip(np.minimum(1, 1 / norms()), rows(), strict=True)) for k in (0, 1)
    ]
    for found, wanted in zip(gradients.values(), exact, strict=True):
        np.testing.assert_allclose(found, wanted / 7, rtol=1e-9)
    np.testing.assert_allclose(report.norms[:7], norms(), rtol=1e-9)
    assert len(report) == 7
    assert report.largest == norms().argmax()
    assert int(state.step) == 1
    x[7:] = np.nan  # all rows are examples now, and two of them are bad
    again, _, report = step({"a": A, "b": B}, x, y)
    for found, wanted in zip(again.values(), exact, strict=True):
        np.testing.assert_allclose(found, wanted / 9, rtol=1e-9)
    assert report.largest in (7, 8)


def test_thresholds_learn_as_in_pytorch_and_in_a_function():
    model = torch.nn.Linear(4, 1, bias=False).double()
    w = tf.Variable(model.weight.detach().numpy())
    clip = clipwise.chain(
        clipwise.Clip(thresholds.quantile_ema(start=2.0)),
        clipwise.Clip(thresholds.mean(0.9, 0.5)),
        clipwise.Clip(thresholds.relative(0.3), per="tensor"),
    )
    theirs = clipwise.torch.per_example(model, clip, "sum")
    step = ct.per_example(lambda x, y: (tf.linalg.matvec(w, x)[0] - y) ** 2, clip, "sum")

    @tf.function
    def whole(state, x, y):
        gradients, state, report = step([w], x, y, state=state)
        return gradients[0], state, report

    state = step.init([w])
    for _ in range(2):
        model.zero_grad()
        theirs.backward(lambda out, y: (out[:, 0] - y) ** 2, torch.tensor(X), torch.tensor(Y))
        gradient, state, report = whole(state, X, Y)
    np.testing.assert_allclose(gradient, model.weight.grad, rtol=1e-9)
    np.testing.assert_allclose(report.threshold, theirs.report.threshold, rtol=1e-9)
    assert report.places() == theirs.report.places()
    with pytest.raises(StateError):
        step([w], X, Y, state=ct.init(clipwise.autoclip(10), [w]))


def test_noise_follows_from_its_seed():
    w = tf.Variable(np.zeros((30, 30)))
    options = {"batch_size": 4, "noise_multiplier": 3.0}
    step = ct.per_example(
        lambda x: tf.reduce_sum(w * 0) + tf.reduce_sum(x), clipwise.clip_by_global_norm(0.5), **options
    )
    once, again, other = (step([w], np.ones((2, 1)), seed=seed)[0][0] for seed in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(once, again)
    assert float(step.sensitivity([w])) == 0.125
    for noise in (once.numpy(), (other - once).numpy() / np.sqrt(2)):
        assert noise.std() == pytest.approx(3.0 * 0.125, rel=0.1)


def test_an_empty_batch_and_the_norm_of_the_clip():
    """Zeros, and the threshold as it was; a root mean square is reported where one is compared."""
    clip = clipwise.Clip(thresholds.quantile_ema(start=0.1), per="global", norm="rms")
    step = ct.per_example(loss_fn, clip)
    state = step.init([A, B])
    gradients, after, report = step([A, B], X[:0], Y[:0], state=state)
    assert not any(one.numpy().any() for one in gradients)
    assert (len(report), report.losses.shape, int(after.step)) == (0, (0,), 1)
    for new, old in zip(tf.nest.flatten(after.thresholds), tf.nest.flatten(state.thresholds), strict=True):
        np.testing.assert_array_equal(new, old)
    _, _, report = step([A, B], X, Y, state=after)
    np.testing.assert_allclose(report.norms, norms() / np.sqrt(30), rtol=1e-9)
    np.testing.assert_allclose(report.norms_after, np.minimum(norms() / np.sqrt(30), 0.1), rtol=1e-9)
    parts = [[np.sqrt(np.mean(one**2)) for one in row] for row in rows()]
    np.testing.assert_allclose(report.tensor_norms, parts, rtol=1e-9)


def test_what_is_refused_before_a_gradient():
    clip = clipwise.clip_by_global_norm(1.0)
    step = ct.per_example(loss_fn, clip)
    with pytest.raises(ArgumentError, match="one number for one example"):
        ct.per_example(lambda x, y: x, clip)([A], X, Y)
    with pytest.raises(ArgumentError, match="along axis 0"):
        step([A, B], X, Y[:3])
    with pytest.raises(ArgumentError, match="mask"):
        step([A, B], X, Y, mask=np.ones(3, bool))
    with pytest.raises(ArgumentError, match="seed"):
        step([A, B], X, Y, seed=(1, 2))
    with pytest.raises(ArgumentError, match="must be TensorFlow or Keras variables"):
        step([X], X, Y)
    with pytest.raises(ArgumentError, match="batch_size"):
        step.sensitivity([A, B])
    for loose in (clipwise.by_name({"a": clip}), clipwise.Clip(thresholds.fixed(np.inf))):
        with pytest.raises(ArgumentError, match="without a bound"):
            ct.per_example(loss_fn, loose, "sum", noise_multiplier=1.0)([A, B], X, Y, seed=(1, 2))
    with pytest.raises(ArgumentError, match="drop"):
        ct.per_example(loss_fn, clip, nonfinite="error")
    unknown = tf.TensorSpec((None, 4), tf.float64)
    with pytest.raises(ArgumentError, match="must be known"):
        tf.function(lambda x: step([A, B], x, Y)[0], input_signature=[unknown], autograph=False)(X)
