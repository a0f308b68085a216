"""Bad input is refused before anything is touched."""

import keras
import numpy as np
import pytest

import clipwise
from clipwise.errors import ArgumentError, ParameterError
from tests.keras.on_backend import nets


@pytest.mark.parametrize("own", [{"clipnorm": 1.0}, {"global_clipnorm": 1.0}, {"clipvalue": 1.0}])
def test_an_optimizer_that_clips_already(own):
    with pytest.raises(ArgumentError, match=f"{next(iter(own))}=1"):
        clipwise.keras.attach(keras.optimizers.SGD(1.0, **own), "auto")


def test_one_that_is_told_to_later():
    made = clipwise.keras.attach(keras.optimizers.SGD(1.0), "auto")
    made.clipnorm = 2.0
    with pytest.raises(ArgumentError, match="clipnorm=2"):
        made.apply([keras.ops.ones(2)], [keras.Variable(np.ones(2, "float32"))])


@pytest.mark.parametrize("thing", ["adam", None, 1.0, keras.optimizers.SGD])
def test_no_optimizer(thing):
    with pytest.raises(ArgumentError, match=r"takes a keras\.optimizers\.Optimizer"):
        clipwise.keras.attach(thing, "auto")


@pytest.mark.parametrize("clip", [None, 1.0, object()])
def test_no_clip(clip):
    made = keras.optimizers.SGD(1.0)
    with pytest.raises(ArgumentError, match="expected a clip"):
        clipwise.keras.attach(made, clip)
    assert type(made) is type(keras.optimizers.SGD(1.0))


def test_no_such_word_and_no_model():
    with pytest.raises(ArgumentError, match="nonfinite must be one of"):
        clipwise.keras.attach(keras.optimizers.SGD(1.0), "auto", nonfinite="ignore")
    with pytest.raises(ArgumentError, match=r"keras\.Model"):
        clipwise.keras.attach(keras.optimizers.SGD(1.0), "auto", model=[])


def test_twice_and_never():
    made = clipwise.keras.attach(keras.optimizers.SGD(1.0), "auto")
    with pytest.raises(ArgumentError, match="attached to this optimizer already"):
        clipwise.keras.attach(keras.optimizers.LossScaleOptimizer(made), "auto")
    for function in (clipwise.keras.report, clipwise.keras.detach):
        with pytest.raises(ArgumentError, match="no clip is attached"):
            function(keras.optimizers.SGD(1.0))


def test_a_pattern_that_matches_nothing():
    clip = clipwise.by_name({"encoder.*": clipwise.clip_by_norm(1.0)})
    with pytest.raises(ParameterError, match=r"'encoder\.\*' matches no parameter.*net\.last"):
        nets.fitted(clipwise.keras.attach(keras.optimizers.SGD(1.0), clip))
    built = keras.optimizers.SGD(1.0)
    built.build([keras.Variable(np.ones(2, "float32"), name="weight")])
    for _ in range(2):  # the second time is told the same: nothing was left behind
        with pytest.raises(ParameterError, match="matches no parameter"):
            clipwise.keras.attach(built, clip)
        with pytest.raises(ParameterError, match="matches no parameter"):
            clipwise.keras.attach(built, "adaptive_grad_clip", unit_axes={"nothing": 0})


def test_the_model_of_others():
    model, other = nets.net(), nets.net("other")
    made = clipwise.keras.attach(keras.optimizers.SGD(1.0), "adaptive_grad_clip", model=other)
    with pytest.raises(ParameterError, match="'other' has none of the 4 variables"):
        made.build(model.trainable_variables)


def test_a_loss_that_nobody_tells():
    made = clipwise.keras.attach(keras.optimizers.SGD(1.0), "clip_by_global_norm(reduce_on_instability(1.0))")
    with pytest.raises(ParameterError, match=r"clipwise\.keras\.observe"):
        nets.fitted(made)


def test_a_monitor_without_a_clip():
    with pytest.raises(ArgumentError, match="no clip is attached"):
        nets.fitted(keras.optimizers.SGD(1.0), callbacks=[clipwise.keras.ClipMonitor()])


def test_a_variable_that_is_listed_twice():
    variable = keras.Variable(np.ones(3, "float32"))
    gradient = keras.ops.convert_to_tensor(np.ones(3, "float32"))
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), clipwise.clip_by_norm(1.0))
    with pytest.raises(ParameterError, match="listed twice"):
        optimizer.apply([gradient, gradient], [variable, variable])
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(variable), np.ones(3))
