"""Bounded activations as Keras layers."""

import keras
import numpy as np
import pytest
from keras import ops

from clipwise.errors import ArgumentError
from clipwise.keras import layers

X = np.random.default_rng(0).normal(0, 4, (16, 6)).astype("float32")
X[0, :3] = [np.nan, np.inf, -np.inf]


def numbers(x):
    return ops.convert_to_numpy(x)


def swiglu(x, limit=7.0, alpha=1.702, offset=1.0):
    gate, up = np.float64(x[:, ::2]).clip(None, limit), np.float64(x[:, 1::2]).clip(-limit, limit)
    return gate / (1 + np.exp(-alpha * gate)) * (up + offset)


CASES = {
    "ClippedReLU": ({"bound": 2.5}, lambda x: np.minimum(np.maximum(x, 0), 2.5)),
    "HardTanh": ({"low": -2.0, "high": 3.0}, lambda x: np.clip(x, -2, 3)),
    "SoftCap": ({"cap": 3.0}, lambda x: 3 * np.tanh(x / 3)),
    "PACT": ({"alpha": 2.5, "axis": -1, "regularizer": "l2"}, lambda x: np.minimum(np.maximum(x, 0), 2.5)),
    "ClampedSwiGLU": ({"limit": 2.0, "alpha": 1.0, "offset": 0.0}, lambda x: swiglu(x, 2.0, 1.0, 0.0)),
}
each = pytest.mark.parametrize("name", CASES)


@each
def test_values_shapes_and_types(name):
    settings, expected = CASES[name]
    x = X[1:] if name == "ClampedSwiGLU" else X
    layer = getattr(layers, name)(**settings)
    np.testing.assert_allclose(numbers(layer(x)), expected(x), rtol=1e-5, atol=1e-6)
    assert layer.compute_output_shape((None, 6)) == (None, 3 if name == "ClampedSwiGLU" else 6)
    half = getattr(layers, name)(**settings, dtype="mixed_float16")
    assert keras.backend.standardize_dtype(half(x).dtype) == "float16"
    assert all(w.dtype == "float32" for w in half.weights)


def test_relu6_is_keras_own_to_the_bit():
    for dtype in ("float16", "float32"):
        x = np.concatenate([X.ravel(), [-0.0, 0.0, 6.0]]).astype(dtype)
        found, expected = numbers(layers.ClippedReLU(dtype=dtype)(x)), numbers(ops.relu6(x))
        assert found.tobytes() == expected.tobytes()


def test_saved_trained_and_loaded(tmp_path):
    keras.utils.set_random_seed(0)
    parts = [getattr(layers, name)(**settings) for name, (settings, _) in CASES.items()]
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6), *parts, keras.layers.Dense(1)])
    pact = next(part for part in parts if isinstance(part, layers.PACT))
    pact.alpha.assign([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    model.compile("sgd", "mse")
    before = numbers(pact.alpha)
    model.fit(X[1:], X[1:, :1], epochs=2, verbose=0)
    assert (numbers(pact.alpha) != before).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(X[1:], verbose=0), model.predict(X[1:], verbose=0))
    for one, two in zip(loaded.layers, model.layers, strict=True):
        assert one.get_config() == two.get_config()


def test_the_gradient_of_pact_is_the_papers():
    layer = layers.PACT(2.0, axis=1)
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, out: ops.sum(out, axis=-1))
    model.fit(np.array([[2.0, 1.0], [5.0, 1.9], [3.0, 7.0]]), np.zeros((3, 2)), batch_size=3, verbose=0)
    # The mean over the batch: 3 and 1 of 3 entries are at the bound or above.
    np.testing.assert_allclose(numbers(layer.alpha), [2 - 1, 2 - 1 / 3], rtol=1e-6)


def test_the_gradient_of_pact_is_summed_in_float32_where_the_layer_computes_in_a_half():
    layer = layers.PACT(2.0, dtype="mixed_bfloat16")
    model = keras.Sequential([keras.Input((70_001,)), layer])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, out: ops.sum(out))
    model.fit(np.full((1, 70_001), 9.0), np.zeros((1, 1)), verbose=0)
    assert numbers(layer.alpha) == 2 - 70_001


def test_what_is_refused():
    for make, words in [
        (lambda: layers.ClippedReLU(0), "bound"),
        (lambda: layers.HardTanh(2, 1), "low must be below high"),
        (lambda: layers.SoftCap(np.inf), "cap"),
        (lambda: layers.PACT(-1), "alpha"),
        (lambda: layers.ClampedSwiGLU(0), "limit"),
        (lambda: layers.PACT(axis=3).build((None, 2)), "no known axis 3"),
        (lambda: layers.PACT(axis=0).build((None, 2)), "no known axis 0"),
        (lambda: layers.ClampedSwiGLU()(X[:, :3]), "even length"),
    ]:
        with pytest.raises(ArgumentError, match=words):
            make()
