"""The gradient penalty in TensorFlow against float64 numpy, eager, traced and under XLA."""

import numpy as np
import pytest
import tensorflow as tf

from clipwise.errors import ArgumentError
from clipwise.tensorflow import gradient_penalty

RNG = np.random.default_rng(11)
W1, W2 = RNG.normal(size=(4, 6)), RNG.normal(size=6)
REAL, FAKE = RNG.normal(size=(2, 5, 4))
ALPHA = RNG.uniform(size=5)


def by_hand(w1=W1, w2=W2, *, weight=10.0, target=1.0, one_sided=False):
    """Of the critic ``tanh(x w1) w2``."""
    points = ALPHA[:, None] * REAL + (1 - ALPHA[:, None]) * FAKE
    slopes = ((1 - np.tanh(points @ w1) ** 2) * w2) @ w1.T
    beyond = np.linalg.norm(slopes, axis=1) - target
    return weight * np.mean((np.maximum(beyond, 0) if one_sided else beyond) ** 2)


def gradients_by_hand(**settings):
    """By finite differences."""
    found = [np.zeros_like(W1), np.zeros_like(W2)]
    for place, grad in enumerate(found):
        for index in np.ndindex(grad.shape):
            ends = []
            for size in (1e-6, -1e-6):
                moved = [W1.copy(), W2.copy()]
                moved[place][index] += size
                ends.append(by_hand(*moved, **settings))
            grad[index] = (ends[0] - ends[1]) / 2e-6
    return found


@pytest.mark.parametrize("settings", [{}, {"weight": 2.5, "target": 3.0, "one_sided": True}])
def test_formula_and_its_gradient(way, settings):
    params = [tf.Variable(W1), tf.Variable(W2[:, None])]

    @way
    def step(real, fake, alpha):
        with tf.GradientTape() as tape:
            value = gradient_penalty(
                lambda x: tf.tanh(x @ params[0]) @ params[1], real, fake, alpha=alpha, **settings
            )
        return value, tape.gradient(value, params)

    value, grads = step(tf.constant(REAL), tf.constant(FAKE), tf.constant(ALPHA))
    assert value.dtype == tf.float64
    assert float(value) == pytest.approx(by_hand(**settings), rel=1e-12)
    for grad, wanted in zip(grads, gradients_by_hand(**settings), strict=True):
        np.testing.assert_allclose(grad.numpy().reshape(wanted.shape), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 2, 4, 4)])
def test_any_rank_and_a_batch_of_any_length(shape):
    slope = RNG.normal(size=shape[1:]).astype("float32")

    @tf.function(input_signature=[tf.TensorSpec([None, *shape[1:]])])
    def penalty(batch):
        return gradient_penalty(
            lambda x: tf.reduce_sum(tf.reshape(x * slope, (-1, slope.size)), 1), batch, tf.zeros_like(batch)
        )

    for count in (3, 7):
        found = penalty(tf.ones([count, *shape[1:]]))
        assert float(found) == pytest.approx(10 * (np.linalg.norm(slope) - 1) ** 2, rel=1e-4)


def test_zeros_small_and_bad_slopes():
    def value_and_grad(slopes, **settings):
        w = tf.Variable(slopes, dtype=tf.float32)
        with tf.GradientTape() as tape:
            value = gradient_penalty(
                lambda x: tf.linalg.matvec(x, w), tf.ones((2, 2)), tf.zeros((2, 2)), alpha=0.5, **settings
            )
        return float(value), tape.gradient(value, w).numpy()

    value, grad = value_and_grad([0.0, 0.0])
    assert value == 10.0
    assert grad.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(value_and_grad([3e-25, 4e-25], weight=1.0)[1], [-1.2, -1.6], rtol=1e-6)
    for one_sided in (False, True):
        assert not np.isfinite(value_and_grad([np.nan, 1.0], one_sided=one_sided)[0])


def test_a_number_for_alpha_has_the_digits_of_the_points():
    seen = []

    def critic(x):
        seen.append(x.numpy())
        return tf.reduce_sum(x, 1)

    gradient_penalty(critic, tf.ones((2, 3), tf.float64), tf.zeros((2, 3)), alpha=0.1)
    assert (seen[0] == np.float64(0.1)).all()


def test_mixed_precision(way):
    """Variables in float32, a critic that computes in float16: its slopes are rounded, the norms are not."""
    params = [tf.Variable(W1, dtype=tf.float32), tf.Variable(W2[:, None], dtype=tf.float32)]

    def critic(x):
        w1, w2 = (tf.cast(one, tf.float16) for one in params)
        return tf.cast(tf.tanh(tf.cast(x, tf.float16) @ w1) @ w2, tf.float32)

    @way
    def step(real, fake, alpha):
        with tf.GradientTape() as tape:
            value = gradient_penalty(critic, real, fake, alpha=alpha)
        return value, tape.gradient(value, params)

    value, grads = step(*(tf.constant(one, tf.float32) for one in (REAL, FAKE, ALPHA)))
    assert value.dtype == tf.float32
    assert float(value) == pytest.approx(by_hand(), rel=0.02)
    for grad, wanted in zip(grads, gradients_by_hand(), strict=True):
        error = np.linalg.norm(grad.numpy().reshape(wanted.shape) - wanted)
        assert error < 0.02 * np.linalg.norm(wanted)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_norms_of_halves_are_wide(dtype):
    slope, batch = tf.fill((512,), tf.constant(256.0, dtype)), tf.zeros((2, 512), dtype)
    found = gradient_penalty(
        lambda x: tf.reduce_sum(tf.cast(x * slope, tf.float32), 1), batch, batch, weight=1.0, target=0.0
    )
    assert found.dtype == tf.float32
    assert float(found) == pytest.approx(512 * 256.0**2, rel=1e-6)


def test_points_are_drawn_by_the_generator():
    def of(seed):
        generator = tf.random.Generator.from_seed(seed)
        real = tf.ones((8, 3))
        return float(
            gradient_penalty(lambda x: tf.reduce_sum(x**2, 1), real, tf.zeros((8, 3)), generator=generator)
        )

    assert of(0) == of(0) != of(1)


TWO = tf.zeros((2, 3))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fake": tf.zeros((2, 4))}, r"the same shape, got \(2, 3\) and \(2, 4\)"),
        ({"real": tf.zeros((2, 3), tf.int32)}, "real must be a tensor of floats, got int32"),
        ({"critic": tf.reduce_mean}, r"one number per sample.*got the shape \(\)"),
        ({"critic": lambda x: tf.zeros(2)}, "does not depend on its input"),
        ({"alpha": tf.zeros(3)}, r"got the shape \(3,\)"),
        ({"alpha": 1.5}, "between 0 and 1, got 1.5"),
        ({"alpha": 0.5, "generator": tf.random.Generator.from_seed(0)}, "not both"),
        ({"target": -1.0}, "target must be a finite number"),
    ],
)
def test_refused(change, said):
    arguments = {"critic": lambda x: tf.reduce_sum(x, 1), "real": TWO, "fake": TWO} | change
    with pytest.raises(ArgumentError, match=said):
        gradient_penalty(**arguments)
