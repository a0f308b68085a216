"""The gradient penalty on each of Keras' back ends, against float64 numpy."""

import keras
import numpy as np
import pytest

from clipwise.errors import ArgumentError
from clipwise.keras import gradient_penalty

RNG = np.random.default_rng(11)
W1, W2 = (RNG.normal(size=size).astype("float32") for size in ((4, 6), (6, 1)))
REAL, FAKE = RNG.normal(size=(2, 5, 4)).astype("float32")
ALPHA = RNG.uniform(size=5).astype("float32")


def by_hand(w1=W1, w2=W2):
    w1, w2 = w1.astype("float64"), w2.astype("float64")[:, 0]
    points = ALPHA[:, None] * REAL + (1 - ALPHA[:, None]) * FAKE
    slopes = ((1 - np.tanh(points @ w1) ** 2) * w2) @ w1.T
    return 10.0 * np.mean((np.linalg.norm(slopes, axis=1) - 1) ** 2)


def critic():
    first, last = keras.layers.Dense(6, "tanh", use_bias=False), keras.layers.Dense(1, use_bias=False)
    model = keras.Sequential([keras.Input((4,)), first, last])
    model.set_weights([W1, W2])
    return model


def value_and_gradients(model):
    """In the way of each back end."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = gradient_penalty(model, REAL, FAKE, alpha=ALPHA)
        return value, tape.gradient(value, [v.value for v in model.trainable_variables])
    if keras.backend.backend() == "torch":
        value = gradient_penalty(model, REAL, FAKE, alpha=ALPHA)
        value.backward()
        return value, [v.value.grad for v in model.trainable_variables]
    import jax

    def penalty(values):
        return gradient_penalty(lambda x: model.stateless_call(values, [], x)[0], REAL, FAKE, alpha=ALPHA)

    return jax.jit(jax.value_and_grad(penalty))([v.value for v in model.trainable_variables])


def test_formula_and_its_gradient():
    value, grads = value_and_gradients(critic())
    assert float(keras.ops.convert_to_numpy(value)) == pytest.approx(by_hand(), rel=1e-5)
    for place, grad in enumerate(grads):
        grad = keras.ops.convert_to_numpy(grad)
        for index in np.ndindex(grad.shape):
            ends = []
            for size in (1e-5, -1e-5):
                moved = [W1.astype("float64"), W2.astype("float64")]
                moved[place][index] += size
                ends.append(by_hand(*moved))
            assert grad[index] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("shape", [(3,), (3, 2, 4, 4)])
def test_any_rank(shape):
    slope = RNG.normal(size=shape[1:]).astype("float32")
    batch = keras.ops.zeros(shape)
    found = gradient_penalty(
        lambda x: keras.ops.sum(keras.ops.reshape(keras.ops.multiply(x, slope), (3, -1)), axis=1),
        batch,
        batch,
        seed=3,
    )
    value = float(keras.ops.convert_to_numpy(found))
    assert value == pytest.approx(10 * (np.linalg.norm(slope) - 1) ** 2, rel=1e-4)


def test_zero_slopes_and_seeds():
    def of(seed, power=2):
        found = gradient_penalty(
            lambda x: keras.ops.sum(x, axis=1) * 0.0 if power == 0 else keras.ops.sum(x**power, axis=1),
            np.ones((8, 3), "float32"),
            np.zeros((8, 3), "float32"),
            seed=seed,
        )
        return float(keras.ops.convert_to_numpy(found))

    assert of(0, power=0) == 10.0
    assert of(0) == of(0) != of(1)
    generator = keras.random.SeedGenerator(0)
    assert of(generator) != of(generator)


def test_refused():
    two = np.zeros((2, 3), "float32")
    for change, said in (
        ({"fake": two[:, :2]}, r"one shape, got \(2, 3\) and \(2, 2\)"),
        ({"real": two.astype("int32")}, "real must be a tensor of floats, got int32"),
        ({"critic": keras.ops.mean}, r"gave the shape \(\)"),
        ({"alpha": 2.0}, "between 0 and 1"),
        ({"alpha": np.zeros(3, "float32")}, r"got the shape \(3,\)"),
        ({"weight": -1}, "weight must be"),
    ):
        arguments = {"critic": lambda x: keras.ops.sum(x, axis=1), "real": two, "fake": two} | change
        with pytest.raises(ArgumentError, match=said):
            gradient_penalty(**arguments)
