"""`attach(weights=...)`: the weights are bounded after every real step, and only then."""

import keras
import numpy as np
import pytest

import clipwise
from clipwise import Clip, thresholds
from clipwise.errors import ArgumentError, ParameterError
from tests.depth import each_value
from tests.keras.on_backend import nets
from tests.keras.on_backend.test_apply import step, zeros


def bound_values(ws):
    return [np.clip(w, -0.2, 0.2) for w in ws]


def bound_units(ws):
    return [
        w * np.minimum(1.0, 0.3 / np.sqrt((w.astype("float64") ** 2).sum(0 if w.ndim > 1 else None)))
        for w in ws
    ]


WEIGHTS = {
    "wgan": ("clip_by_value(0.2)", bound_values),
    "max norm": (Clip(0.3, per="unit"), bound_units),
}


def by_hand(bound, clip, micro=1):
    """The weights after one epoch of SGD in order, bounded after each step."""
    weights = [w.astype(np.float64) for w in nets.net().get_weights()]
    for start in range(0, len(nets.X), 8 * micro):
        parts = [
            nets.gradients(weights, nets.X[s : s + 8].astype(np.float64), nets.Y[s : s + 8])
            for s in range(start, start + 8 * micro, 8)
        ]
        mean = [np.mean(each, axis=0) for each in zip(*parts, strict=True)]
        weights = bound([w - nets.RATE * g for w, g in zip(weights, clip(mean, weights), strict=True)])
    return weights


@pytest.mark.parametrize(
    ("kind", "clip", "micro"), each_value([*WEIGHTS], [None, "clip_by_global_norm(2.0)"], [1, 2])
)
def test_after_every_step_of_fit(kind, clip, micro):
    weights, bound = WEIGHTS[kind]
    accumulation = {"gradient_accumulation_steps": micro} if micro > 1 else {}
    optimizer = keras.optimizers.SGD(nets.RATE, **accumulation)
    model = nets.fitted(clipwise.keras.attach(optimizer, clip, weights=weights))
    expected = by_hand(bound, nets.globally(2.0) if clip else lambda gs, ws: gs, micro)
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-6)
    report = clipwise.keras.weights_report(optimizer)
    every = np.concatenate([w.ravel() for w in model.get_weights()])
    if kind == "wgan":
        assert float(report.at_bound) == pytest.approx(np.mean(np.abs(every) >= np.float32(0.2)))
        assert 0 < float(report.at_bound) < 1
    assert len(report.names) == 4


def test_accumulation_steps_leave_weights_alone():
    optimizer = clipwise.keras.attach(
        keras.optimizers.SGD(1.0, gradient_accumulation_steps=2), weights="clip_by_value(0.1)"
    )
    (weight,) = variables = [keras.Variable(np.array([3.0, 0.0], "float32"), name="v")]
    step(optimizer, [[1.0, 1.0]], variables)
    assert keras.ops.convert_to_numpy(weight).tolist() == [3.0, 0.0]
    step(optimizer, [[1.0, 1.0]], variables)
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(weight), np.float32([0.1, -0.1]))


def test_a_step_that_is_left_out_bounds_nothing():
    optimizer = clipwise.keras.attach(
        keras.optimizers.SGD(1.0), "clip_by_norm(1.0)", weights="clip_by_value(0.1)"
    )
    (weight,) = variables = [keras.Variable(np.array([3.0, 0.0], "float32"), name="v")]
    step(optimizer, [[np.nan, 1.0]], variables)
    assert keras.ops.convert_to_numpy(weight).tolist() == [3.0, 0.0]
    assert float(clipwise.keras.weights_report(optimizer).norm) == 0.0
    step(optimizer, [[0.0, 0.0]], variables)
    report = clipwise.keras.weights_report(optimizer)
    assert (float(report.norm), float(report.clip_fraction), float(report.at_bound)) == (3.0, 0.5, 0.5)
    step(optimizer, [[0.0, 0.0]], variables)
    report = clipwise.keras.weights_report(optimizer)
    assert (float(report.clip_fraction), float(report.at_bound)) == (0.0, 0.5)


def test_with_weights_alone_keras_own_clip_stays():
    def of(optimizer):
        variables = zeros((2,))
        return step(optimizer, [[3.0, 4.0]], variables)[0]

    ours = of(clipwise.keras.attach(keras.optimizers.SGD(1.0, clipnorm=1.0), weights="clip_by_value(9.0)"))
    np.testing.assert_allclose(ours, [0.6, 0.8], rtol=1e-6)
    with pytest.raises(ArgumentError, match="clips by itself"):
        clipwise.keras.attach(
            keras.optimizers.SGD(1.0, clipnorm=1.0), "clip_by_norm(1.0)", weights="clip_by_value(9.0)"
        )


def test_at_bound_is_of_what_the_step_clipped():
    """By name as clip_fraction is; without what had no gradient; unknown where groups have own bounds."""

    def after_a_step(clip, grads=((0.0, 0.0, 0.0), (0.0,))):
        optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), weights=clip)
        values = ([1.0, 1.0, 0.0], [5.0])
        pairs = zip("ab", values, strict=True)
        variables = [keras.Variable(np.array(v, "float32"), name=name) for name, v in pairs]
        optimizer.build(variables)
        step(optimizer, grads, variables[: len(grads)])
        return clipwise.keras.weights_report(optimizer)

    report = after_a_step(clipwise.by_name({"b": clipwise.clip_by_value(0.5), "*": None}))
    assert float(report.clip_fraction) == float(report.at_bound) == 0.5
    report = after_a_step("clip_by_value(0.5)", [(0.0, 0.0, 0.0)])
    assert float(report.clip_fraction) == float(report.at_bound) == pytest.approx(2 / 3)
    assert np.isnan(float(after_a_step(Clip(thresholds.mean(2.0), per="tensor")).at_bound))


def test_saved_with_the_model_and_detached(tmp_path):
    clip = clipwise.by_name({"*kernel": clipwise.clip_by_value(0.2), "*": None})
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(nets.RATE), weights=clip)
    model = nets.fitted(optimizer)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    found = clipwise.keras.weights_report(loaded.optimizer)
    wanted = clipwise.keras.weights_report(optimizer)
    assert float(found.norm) == float(wanted.norm) > 0
    assert float(found.at_bound) == float(wanted.at_bound) > 0
    for one in (model, loaded):
        one.fit(nets.X, nets.Y, batch_size=8, shuffle=False, verbose=0)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert np.abs(loaded.get_weights()[0]).max() == np.float32(0.2)
    count = len(optimizer.variables)
    clipwise.keras.detach(optimizer, model=model)
    assert len(optimizer.variables) < count
    assert not any("clipwise" in variable.name for variable in optimizer.variables)


def test_several_optimizers_and_a_loss_scale():
    if hasattr(keras.optimizers, "MultiOptimizer"):
        from keras.optimizers import OptimizerMap

        optimizer = keras.optimizers.MultiOptimizer(OptimizerMap(keras.optimizers.SGD(nets.RATE)))
        model = nets.fitted(clipwise.keras.attach(optimizer, weights="clip_by_value(0.2)"))
        for found, wanted in zip(model.get_weights(), by_hand(bound_values, lambda gs, ws: gs), strict=True):
            np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-6)
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(nets.RATE))
    model = nets.fitted(clipwise.keras.attach(scaled, weights="clip_by_value(0.2)"))
    expected = by_hand(bound_values, lambda gs, ws: gs)
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-6)


def test_refused():
    with pytest.raises(ArgumentError, match="or weights="):
        clipwise.keras.attach(keras.optimizers.SGD(1.0))
    with pytest.raises(ArgumentError, match="cannot follow the loss, as reduce_on_instability"):
        clipwise.keras.attach(keras.optimizers.SGD(1.0), weights=Clip(thresholds.reduce_on_instability(1.0)))
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), "clip_by_norm(1.0)")
    with pytest.raises(ArgumentError, match="no clip of weights"):
        clipwise.keras.weights_report(optimizer)
    pattern = clipwise.by_name({"nothing": clipwise.clip_by_value(1.0)})
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), weights=pattern)
    with pytest.raises(ParameterError, match="matches no"):
        optimizer.build(zeros((2,)))
