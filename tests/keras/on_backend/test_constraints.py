"""`ClipConstraint` beside Keras' own MaxNorm, in layers, and saved."""

import keras
import numpy as np
import pytest

import clipwise
from clipwise import Clip
from clipwise.errors import ArgumentError
from clipwise.keras import ClipConstraint

RNG = np.random.default_rng(3)


def applied(constraint, weight):
    return keras.ops.convert_to_numpy(constraint(keras.ops.convert_to_tensor(weight)))


@pytest.mark.parametrize(("shape", "axis"), [((5, 4), 0), ((3, 3, 2, 4), [0, 1, 2])])
def test_as_keras_max_norm(shape, axis):
    weight = RNG.normal(size=shape).astype("float32")
    weight[..., 0] *= 0.01
    ours = applied(ClipConstraint(Clip(0.7, per="unit")), weight)
    keras_own = applied(keras.constraints.MaxNorm(0.7, axis=axis), weight)
    np.testing.assert_allclose(ours, keras_own, rtol=1e-4)
    norms = np.linalg.norm(ours.reshape(-1, shape[-1]).astype("float64"), axis=0)
    np.testing.assert_allclose(norms[1:], 0.7, rtol=1e-6)
    assert np.array_equal(ours[..., 0], weight[..., 0])  # which Keras' own changes


def test_values_ranges_and_other_units():
    weight = RNG.normal(size=(5, 4)).astype("float32")
    assert np.array_equal(applied(ClipConstraint("clip_by_value(0.3)"), weight), weight.clip(-0.3, 0.3))
    both = ClipConstraint(clipwise.chain(Clip((0.0, 0.5), per="element"), Clip(0.6, per="tensor")))
    clamped = weight.clip(0, 0.5)
    np.testing.assert_allclose(applied(both, weight), clamped * 0.6 / np.linalg.norm(clamped), rtol=1e-6)
    rows = np.linalg.norm(applied(ClipConstraint(Clip(0.5, per="unit"), units=0), weight), axis=1)
    np.testing.assert_allclose(rows, 0.5, rtol=1e-6)
    whole = applied(ClipConstraint(Clip(0.5, per="unit"), units=None), weight)
    assert np.linalg.norm(whole) == pytest.approx(0.5, rel=1e-6)


def test_in_a_layer_after_every_step_and_after_loading(tmp_path):
    dense = keras.layers.Dense(3, kernel_constraint=ClipConstraint(Clip(0.5, per="unit")))
    model = keras.Sequential([keras.Input((4,)), dense])
    model.compile(keras.optimizers.SGD(1.0), loss="mse")
    x, y = RNG.normal(size=(16, 4)), 9 * RNG.normal(size=(16, 3))
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    norms = np.linalg.norm(model.get_weights()[0].astype("float64"), axis=0)
    assert (norms <= 0.5 * (1 + 1e-6)).all()
    assert norms.max() == pytest.approx(0.5, rel=1e-6)
    path = tmp_path / "model.keras"
    model.save(path)
    loaded = keras.models.load_model(path)
    found = loaded.layers[0].kernel_constraint
    assert isinstance(found, ClipConstraint)
    assert found.clip == Clip(0.5, per="unit")
    assert found.get_config() == dense.kernel_constraint.get_config()


@pytest.mark.parametrize("units", ["last", 0, [0, 1], None])
def test_config(units):
    constraint = ClipConstraint(clipwise.clip_by_value(0.01), units=units)
    again = ClipConstraint.from_config(constraint.get_config())
    assert (again.clip, again.units) == (constraint.clip, constraint.units)


def test_refused():
    for clip, said in (
        (clipwise.autoclip(10), "keeps no state between steps"),
        (clipwise.chain(clipwise.clip_by_value(1.0), clipwise.autoclip(10)), "keeps no state between steps"),
        (clipwise.by_name({"*": clipwise.clip_by_value(1.0)}), "knows no names"),
        (0.01, "expected a clip"),
    ):
        with pytest.raises(ArgumentError, match=said):
            ClipConstraint(clip)
    with pytest.raises(ArgumentError, match="units must be an axis"):
        ClipConstraint("clip_by_value(1.0)", units="first")
    with pytest.raises(ArgumentError, match="no axis 2"):
        applied(ClipConstraint(Clip(1.0, per="unit"), units=2), np.zeros((2, 2), "float32"))
