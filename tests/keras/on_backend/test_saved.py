"""A run that is saved and resumed equals one that never stopped."""

import pickle
import subprocess
import sys

import keras
import numpy as np
import pytest

import clipwise
from tests.depth import LONG, brief
from tests.keras.on_backend import nets

HALF = 24
CLIP = clipwise.chain(
    clipwise.clip_by_value(3.0), clipwise.by_name({"net.first.*": clipwise.autoclip(30), "*": None})
)

FRESH = """
import pickle, sys, keras, numpy as np
with open(sys.argv[3], "rb") as file:
    optimizer = pickle.load(file)  # by itself: nothing of clipwise is imported yet
weight = keras.Variable([0.0, 0.0], name="weight")
optimizer.apply([keras.ops.convert_to_tensor(np.asarray([3.0, 4.0], "float32"))], [weight])
import clipwise.keras
from tests.keras.on_backend import nets
model = keras.models.load_model(sys.argv[1])
model.fit(nets.X[24:], nets.Y[24:], batch_size=8, shuffle=False, verbose=0)
unpickled = keras.ops.convert_to_numpy(weight)
np.savez(sys.argv[2], *model.get_weights(), unpickled=unpickled, **nets.variables_of(model.optimizer))
"""


def run(model, part):
    model.fit(nets.X[part], nets.Y[part], batch_size=8, shuffle=False, verbose=0)


def equal(model, other):
    for one, two in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    found, expected = nets.variables_of(model.optimizer), nets.variables_of(other.optimizer)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.fixture(scope="module")
def straight():
    model = nets.net()
    optimizer = clipwise.keras.attach(
        keras.optimizers.Adam(0.02), CLIP, unit_axes={"*kernel": (0, 1)}, nonfinite="zero", direction=True
    )
    model.compile(optimizer, loss="mse")
    run(model, slice(HALF))
    return model


def test_a_whole_model(straight, tmp_path):
    straight.save(tmp_path / "half.keras")
    loaded = keras.models.load_model(tmp_path / "half.keras")
    assert str(clipwise.keras.report(loaded.optimizer)) == str(clipwise.keras.report(straight.optimizer))
    pickled = pickle.loads(pickle.dumps(straight))
    run(straight, slice(HALF, None))
    run(loaded, slice(HALF, None))
    equal(loaded, straight)
    run(pickled, slice(HALF, None))
    equal(pickled, straight)
    assert loaded.optimizer.get_config() == straight.optimizer.get_config()


@pytest.mark.skipif(
    keras.backend.backend() not in brief(["jax", "tensorflow", "torch"], "torch"), reason=LONG
)
def test_in_a_fresh_process(straight, tmp_path):
    straight.save(tmp_path / "half.keras")
    other = clipwise.keras.attach(keras.optimizers.SGD(1.0), "clip_by_global_norm(1.0)")
    (tmp_path / "other.pickle").write_bytes(pickle.dumps(other))
    files = [str(tmp_path / name) for name in ("half.keras", "end.npz", "other.pickle")]
    subprocess.run([sys.executable, "-c", FRESH, *files], check=True, capture_output=True)
    run(straight, slice(HALF, None))
    with np.load(tmp_path / "end.npz") as end:
        np.testing.assert_allclose(end["unpickled"], [-0.6, -0.8], rtol=1e-6)
        for i, weight in enumerate(straight.get_weights()):
            np.testing.assert_array_equal(end[f"arr_{i}"], weight)
        for name, value in nets.variables_of(straight.optimizer).items():
            np.testing.assert_array_equal(end[name], value, err_msg=name)


def test_a_config_makes_the_same_optimizer():
    made = clipwise.keras.attach(
        keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 9), momentum=0.5),
        clipwise.clip_by_norm(1.0, norm="rms"),
        unit_axes={"*kernel": (0, 1), "*": None},
    )
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(made))
    assert copy.get_config() == made.get_config()
    assert isinstance(copy, keras.optimizers.SGD)
    assert copy._clipwise.clip == made._clipwise.clip
    assert copy._clipwise.unit_axes == {"*kernel": (0, 1), "*": None}


def test_of_an_optimizer_class_of_the_user():
    @keras.saving.register_keras_serializable("tests")
    class Halved(keras.optimizers.SGD):
        def update_step(self, gradient, variable, learning_rate):
            super().update_step(gradient, variable, learning_rate / 2)

    made = clipwise.keras.attach(Halved(1.0), "clip_by_norm(1.0)")
    copy = type(made).from_config(made.get_config())
    assert isinstance(copy, Halved)
    assert type(copy) is type(made)
