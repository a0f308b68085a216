"""What is pickled or copied does as the original does."""

import copy
import importlib.util
import pickle
import warnings

import keras
import numpy as np
import pytest

import clipwise
import clipwise.keras
from clipwise.keras import layers
from clipwise.monitor import Monitor


def by_cloudpickle(one):
    import cloudpickle

    return pickle.loads(cloudpickle.dumps(one))


WAYS = {
    "pickle": lambda one: pickle.loads(pickle.dumps(one)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}
if importlib.util.find_spec("cloudpickle"):
    WAYS["cloudpickle"] = by_cloudpickle
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def stepped(optimizer, gradient=(3.0, 4.0)):
    """A weight of zeros after one step; on JAX Keras scales losses in compiled steps only."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    weight = keras.Variable([0.0, 0.0], name="weight")
    optimizer.apply([keras.ops.convert_to_tensor(np.asarray(gradient, "float32"))], [weight])
    return keras.ops.convert_to_numpy(weight)


def multi():
    of = keras.optimizers.OptimizerMap(keras.optimizers.SGD(1.0), {"other": keras.optimizers.SGD(2.0)})
    return keras.optimizers.MultiOptimizer(of)


MADE = {
    "plain": lambda: clipwise.keras.attach(keras.optimizers.SGD(1.0), "clip_by_global_norm(1.0)"),
    "in parts": lambda: clipwise.keras.attach(
        keras.optimizers.SGD(1.0),
        clipwise.chain(
            clipwise.by_name({"weight": clipwise.clip_by_norm(1.0), "*": None}), clipwise.autoclip(10)
        ),
        weights="clip_by_value(9.0)",
        nonfinite="zero",
        unit_axes={"*": None},
    ),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(
        clipwise.keras.attach(keras.optimizers.SGD(1.0), "clip_by_norm(1.0)"), initial_scale=1.0
    ),
}
if hasattr(keras.optimizers, "MultiOptimizer"):
    MADE["multi"] = lambda: clipwise.keras.attach(multi(), "clip_by_global_norm(1.0)")


@every_way
@pytest.mark.parametrize("name", MADE)
def test_an_optimizer_with_a_clip(name, way):
    original = MADE[name]()
    made = way(original)
    assert made is not original
    assert type(made) is type(original)
    assert made.get_config() == original.get_config()
    assert stepped(made) == pytest.approx([-0.6, -0.8], rel=1e-6)
    report = clipwise.keras.report(made)
    assert float(report.norm) == pytest.approx(5.0, rel=1e-6)
    assert str(way(report)) == str(report)
    assert not original.built
    # One that has made steps: Keras keeps the settings and says that the variables are left out.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        again = way(made)
    assert again.get_config()["name"] == original.get_config()["name"]
    assert stepped(again) == pytest.approx([-0.6, -0.8], rel=1e-6)


@every_way
@pytest.mark.parametrize(
    "one",
    [
        layers.PACT(2.5, axis=-1),
        layers.ClampedSwiGLU(2.0),
        layers.ClippedReLU(2.5),
        layers.HardTanh(-2.0, 3.0),
        layers.SoftCap(3.0),
        clipwise.keras.ClipValues(-1.0, 1.0),
        clipwise.keras.ClipConstraint(clipwise.Clip(3.0, per="unit"), units=(0, 1)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_layer_or_constraint(one, way):
    made = way(one)
    assert type(made) is type(one)
    assert made.get_config() == one.get_config()


@every_way
def test_a_callback_and_clips(way):
    assert way(clipwise.keras.ClipMonitor(batches=False)).batches is False
    for clip in (
        clipwise.clip_by_value(low=-1.0, high=2.0),
        clipwise.autoclip(10),
        clipwise.auto(),
        clipwise.zclip(),
    ):
        assert way(clip) == clip


@pytest.mark.parametrize("way", [pickle.dumps, copy.deepcopy])
def test_a_recording_callback_says_why_not(way, tmp_path):
    with Monitor(tmp_path / "runs.db") as monitor:
        callback = monitor.callback()
        with pytest.raises(TypeError, match=r"call monitor\.callback\(\) where it is needed"):
            way(callback)
        assert type(copy.copy(callback)).__name__ == type(callback).__name__
