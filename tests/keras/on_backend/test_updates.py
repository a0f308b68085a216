"""`attach(updates=...)`: what each step did to the variables is clipped, against the formula in float64."""

import keras
import numpy as np
import pytest

import clipwise
from clipwise import Clip, thresholds
from clipwise.errors import ArgumentError
from tests.keras.on_backend import nets
from tests.keras.on_backend.test_apply import step, zeros

MOMENTUM, LIMIT = 0.9, 6.0


def rms(x):
    return np.sqrt(np.mean(np.square(x)))


def by_hand():
    """The weights after one epoch of SGD with momentum, each step bounded by tensor; and how many were."""
    weights = [w.astype(np.float64) for w in nets.net().get_weights()]
    speeds, clipped = [np.zeros_like(w) for w in weights], 0
    for s in range(0, len(nets.X), 8):
        x, y = nets.X[s : s + 8].astype(np.float64), nets.Y[s : s + 8]
        for i, g in enumerate(nets.gradients(weights, x, y)):
            speeds[i] = MOMENTUM * speeds[i] - nets.RATE * g
            size = rms(speeds[i] / nets.RATE)
            clipped += size > LIMIT
            weights[i] = weights[i] + speeds[i] / max(1.0, size / LIMIT)
    return weights, clipped


def test_of_every_step_of_fit(tmp_path):
    """Saved and loaded with the model, too, and detached from it."""
    optimizer = keras.optimizers.SGD(nets.RATE, momentum=MOMENTUM)
    model = nets.fitted(clipwise.keras.attach(optimizer, updates=clipwise.clip_by_block_rms(LIMIT)))
    expected, clipped = by_hand()
    assert 0 < clipped < 24
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-6)
    report = clipwise.keras.updates_report(optimizer)
    assert len(report.names) == 4
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert float(clipwise.keras.updates_report(loaded.optimizer).norm) == float(report.norm) > 0
    clipwise.keras.detach(optimizer, model=model)
    assert not any("clipwise" in variable.name for variable in optimizer.variables)


def test_what_is_not_clipped_keeps_its_bits_and_weights_are_those_before():
    relative = Clip(thresholds.relative(0.5), per="tensor")
    clip = clipwise.by_name({"v0": relative, "*": clipwise.clip_by_norm(1e9)})
    rng = np.random.default_rng(0)
    start, given = (rng.normal(size=(2, 3)).astype("float32") for _ in range(2))
    both = []
    plain, ours = (keras.optimizers.SGD(0.3) for _ in range(2))
    for optimizer in (plain, clipwise.keras.attach(ours, updates=clip)):
        of = [keras.Variable(row, name=f"v{i}") for i, row in enumerate(start)]
        step(optimizer, [given[0] * 100.0, given[1]], of)
        both.append([keras.ops.convert_to_numpy(v) for v in of])
    np.testing.assert_array_equal(both[0][1], both[1][1])
    bound = 0.3 * 0.5 * np.linalg.norm(start[0].astype(float))
    moved = both[1][0].astype(float) - start[0]
    np.testing.assert_allclose(np.linalg.norm(moved), bound, rtol=1e-5)
    np.testing.assert_allclose(moved / bound, -given[0] / np.linalg.norm(given[0]), rtol=1e-4)


@pytest.mark.parametrize("nonfinite", ["skip", "zero"])
def test_steps_that_do_not_happen_and_updates_that_are_not_finite(nonfinite):
    optimizer = clipwise.keras.attach(
        keras.optimizers.SGD(1e30), updates=clipwise.clip_by_block_rms(1.0), nonfinite=nonfinite
    )
    of = zeros((2,))
    taken = step(optimizer, [[1e30, 0.0]], of)
    assert np.array_equal(taken[0], [0.0, 0.0])
    report = clipwise.keras.updates_report(optimizer)
    assert (bool(report.skipped), int(report.nonfinite)) == (nonfinite == "skip", 1)
    step(optimizer, [[np.nan, 0.0]], of)
    if nonfinite == "skip":  # of the gradient: no update, so no report of one
        assert int(clipwise.keras.updates_report(optimizer).nonfinite) == 1
    assert np.array_equal(keras.ops.convert_to_numpy(of[0]), [0.0, 0.0])


def test_refused():
    with pytest.raises(ArgumentError, match="or updates="):
        clipwise.keras.attach(keras.optimizers.SGD(1.0))
    with pytest.raises(ArgumentError, match="reads the second moment of Adam"):
        clipwise.keras.attach(keras.optimizers.Adam(1.0), updates="stable_adamw()")
    with pytest.raises(ArgumentError, match="updates cannot follow the loss"):
        clipwise.keras.attach(keras.optimizers.SGD(1.0), updates="clip_by_norm(reduce_on_instability())")
    if hasattr(keras.optimizers, "MultiOptimizer"):
        from keras.optimizers import OptimizerMap

        several = keras.optimizers.MultiOptimizer(OptimizerMap(keras.optimizers.SGD(1.0)))
        with pytest.raises(ArgumentError, match="attach to each of the optimizers inside"):
            clipwise.keras.attach(several, updates="clip_by_block_rms(1.0)")
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), "clip_by_norm(1.0)")
    with pytest.raises(ArgumentError, match="no clip of updates"):
        clipwise.keras.updates_report(optimizer)
