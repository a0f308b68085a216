"""Thresholds that look at the loss, in loops of one's own."""

import keras
import numpy as np

import clipwise
from clipwise.thresholds import Observation, reduce_on_instability

LOSSES = [1.0, 1.1] * 10 + [50.0, 1.0, np.nan, 1.0, 60.0, 1.0]


def test_the_loss_of_each_step():
    policy = reduce_on_instability(1.0, 0.5, patience=1)
    variable = keras.Variable(np.zeros(2, "float32"), name="v")
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), clipwise.clip_by_global_norm(policy))
    state = policy.init(np, ())
    found, expected, held = [], [], []
    for loss in LOSSES:
        clipwise.keras.observe(optimizer, keras.ops.convert_to_tensor(np.float32(loss)))
        optimizer.apply([keras.ops.convert_to_tensor(np.asarray([3.0, 4.0], "float32"))], [variable])
        report = clipwise.keras.report(optimizer)
        found.append(float(report.threshold))
        held.append({reason: float(share) for reason, share in report.held.items()})
        threshold, state = policy.update(np, state, Observation(norm=5.0, loss=np.asarray(loss)))
        expected.append(float(threshold))
    np.testing.assert_allclose(found, expected)
    assert len(set(expected)) == 4
    assert held == [{"start": one == 1.0, "floor": 0.0, "loss": one < 1.0} for one in expected]


def test_the_mean_over_micro_batches():
    variable = keras.Variable(np.zeros(2, "float32"), name="v")
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), "auto")
    memory = optimizer._clipwise
    for losses, mean in [([5.0], 5.0), ([1.0, 2.0, 6.0], 3.0), ([], 3.0)]:
        for loss in losses:
            clipwise.keras.observe(optimizer, loss)
        if memory.memory is not None:
            np.testing.assert_allclose(float(memory.memory.loss()), mean)
        optimizer.apply([keras.ops.ones(2)], [variable])


def test_without_observe_auto_does_without():
    variable = keras.Variable(np.zeros(2, "float32"), name="v")
    optimizer = clipwise.keras.attach(keras.optimizers.SGD(1.0), "auto")
    optimizer.apply([keras.ops.ones(2)], [variable])
    assert np.isfinite(float(clipwise.keras.report(optimizer).threshold))


def test_a_loss_that_changes_before_the_optimizer_is_built():
    optimizer = clipwise.keras.attach(
        keras.optimizers.SGD(1.0), "clip_by_global_norm(reduce_on_instability(1.0, 0.5, patience=1))"
    )
    loss = keras.Variable(1.0)
    clipwise.keras.observe(optimizer, loss.value)
    loss.assign(50.0)
    optimizer.build([keras.Variable([0.0, 0.0], name="v")])
    assert float(optimizer._clipwise.memory.loss()) == 1.0
