"""The layer that clips the data inside a model."""

import keras
import numpy as np
import pytest

from clipwise.errors import ArgumentError
from clipwise.keras.clip_values import ClipValues
from tests.data.test_clip_values import HIGH, INSIDE, LOW, MISTAKES, ROWS


def test_each_feature_and_nan_is_kept():
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(ClipValues(LOW, HIGH)(ROWS)), INSIDE)
    half = ClipValues(0, 1, dtype="float16")(np.array([[2.0]], "float16"))
    assert keras.backend.standardize_dtype(half.dtype) == "float16"


def test_saved_with_the_model(tmp_path):
    model = keras.Sequential([keras.Input((3,)), ClipValues(LOW, HIGH), keras.layers.Dense(1)])
    x = np.nan_to_num(ROWS, posinf=5, neginf=-5)
    model.save(tmp_path / "model.keras")
    back = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(back.predict(x, verbose=0), model.predict(x, verbose=0))
    assert back.layers[0].get_config()["low"] == [-1.0, None, -4.0]
    assert back.layers[0].get_config()["high"] == [1.0, 2.0, None]


def test_a_weight_before_it_learns_only_from_values_that_stay_inside():
    """1 of 0.5, none of 9."""
    layers = [keras.Input((1,)), keras.layers.Dense(1, use_bias=False), ClipValues(-1, 1)]
    model = keras.Sequential(layers)
    model.layers[0].set_weights([np.ones((1, 1), "float32")])
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y, p: keras.ops.sum(p))
    x = np.array([[0.5], [9.0], [-7.0]], "float32")
    model.fit(x, np.zeros((3, 1), "float32"), batch_size=3, verbose=0)
    np.testing.assert_allclose(model.layers[0].get_weights()[0], [[0.5]], rtol=1e-6)


@pytest.mark.parametrize(("arguments", "says"), MISTAKES)
def test_a_mistake_is_named(arguments, says):
    with pytest.raises(ArgumentError, match=says):
        ClipValues(*arguments)


def test_an_input_that_does_not_fit_is_named():
    with pytest.raises(ArgumentError, match=r"bounds for 3 features do not fit an input of shape \(2, 4\)"):
        ClipValues(LOW, HIGH)(np.zeros((2, 4), "float32"))
    with pytest.raises(ArgumentError, match="floating-point values, got int32"):
        ClipValues(LOW, HIGH)(np.array([[0, -5, 7]], "int32"))


def test_a_feature_that_is_wiped_out_is_warned_of():
    says = r"feature 1: its bounds, 2\.0 and 2\.0, set all values to 2\.0; give others"
    with pytest.warns(UserWarning, match=says) as caught:
        ClipValues([0, 2], [1, 2])
    assert [warning.filename for warning in caught] == [__file__]
