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


def critic(dtype=None):
    first = keras.layers.Dense(6, "tanh", use_bias=False, dtype=dtype)
    last = keras.layers.Dense(1, use_bias=False, dtype=dtype)
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


def gradients_by_hand():
    """By finite differences."""
    found = [np.zeros(W1.shape), np.zeros(W2.shape)]
    for place, grad in enumerate(found):
        for index in np.ndindex(grad.shape):
            ends = []
            for size in (1e-5, -1e-5):
                moved = [W1.astype("float64"), W2.astype("float64")]
                moved[place][index] += size
                ends.append(by_hand(*moved))
            grad[index] = (ends[0] - ends[1]) / 2e-5
    return found


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-4), ("mixed_float16", 0.02)])
def test_formula_and_its_gradient(dtype, error):
    """In mixed precision the critic's slopes are rounded; the norms are in float32."""
    value, grads = value_and_gradients(critic(dtype))
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert float(keras.ops.convert_to_numpy(value)) == pytest.approx(by_hand(), rel=error)
    for grad, wanted in zip(grads, gradients_by_hand(), strict=True):
        off = np.linalg.norm(keras.ops.convert_to_numpy(grad) - wanted)
        assert off < error * np.linalg.norm(wanted)


def test_nan_is_not_hidden():
    slope = np.array([[np.nan], [1.0]], "float32")
    for one_sided in (False, True):
        found = gradient_penalty(
            lambda x: keras.ops.matmul(x, slope),
            np.ones((2, 2), "float32"),
            np.zeros((2, 2), "float32"),
            one_sided=one_sided,
            alpha=0.5,
        )
        assert np.isnan(keras.ops.convert_to_numpy(found))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras promotes to float64 there only")
def test_a_number_for_alpha_has_the_digits_of_the_points():
    seen = []

    def critic(x):
        seen.append(keras.ops.convert_to_numpy(keras.ops.stop_gradient(x)))
        return keras.ops.sum(x, axis=1)

    gradient_penalty(critic, np.ones((2, 3), "float64"), np.zeros((2, 3), "float32"), alpha=0.1)
    assert (seen[0] == np.float64(0.1)).all()


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
        ({"fake": two[:, :2]}, r"the same shape, got \(2, 3\) and \(2, 2\)"),
        ({"real": two.astype("int32")}, r"real must be a tensor of floats, got (torch\.)?int32"),
        ({"critic": keras.ops.mean}, r"got the shape \(\)"),
        ({"alpha": 2.0}, "between 0 and 1"),
        ({"alpha": np.zeros(3, "float32")}, r"got the shape \(3,\)"),
        ({"weight": -1}, "weight must be"),
    ):
        arguments = {"critic": lambda x: keras.ops.sum(x, axis=1), "real": two, "fake": two} | change
        with pytest.raises(ArgumentError, match=said):
            gradient_penalty(**arguments)
