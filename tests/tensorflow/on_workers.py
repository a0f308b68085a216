"""A program on two workers, or on two replicas of one: Keras and a loop of one's own under `tf.distribute`.

``python -m tests.tensorflow.on_workers STRATEGY``; TF_CONFIG says which worker this is.
"""

import sys

import keras
import numpy as np
import tensorflow as tf

import clipwise
import clipwise.keras
import clipwise.tensorflow as ct
from tests.keras.on_backend import nets

RATE, STEPS, THRESHOLD = 0.2, 6, 0.3


def in_fit(strategy):
    """What is trained is what one process trains with the whole batches; the sum over replicas is clipped."""
    for clip, by_hand in (
        (clipwise.autoclip(30), nets.percentile(30)),
        (clipwise.clip_by_norm(3.0), nets.by_tensor(3.0)),
        (clipwise.clip_by_value(0.5), nets.by_value(0.5)),
        (clipwise.adaptive_grad_clip(0.05), nets.by_unit(0.05)),
    ):
        with strategy.scope():
            model = nets.net()
            model.compile(clipwise.keras.attach(keras.optimizers.SGD(nets.RATE), clip), loss="mse")
        model.fit(nets.X, nets.Y, batch_size=8, shuffle=False, verbose=0)
        weights, norms = nets.by_hand(by_hand)
        for found, expected in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
        report = clipwise.keras.report(model.optimizer)
        np.testing.assert_allclose(float(report.norm), norms[-1], rtol=1e-5)


def in_a_loop_of_keras(strategy):
    """An optimizer of Keras in a loop of one's own; `fit` of Keras takes no several workers."""
    with strategy.scope():
        model = nets.net()
        optimizer = clipwise.keras.attach(keras.optimizers.SGD(nets.RATE), clipwise.autoclip(30))
        optimizer.build(model.trainable_variables)

    def replica(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((model(x, training=True) - y) ** 2) / 8
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)

    @tf.function
    def step(x, y):
        strategy.run(replica, args=(x, y))

    for start in range(0, len(nets.X), 8):
        step(*(parts_of(strategy, array[start : start + 8]) for array in (nets.X, nets.Y)))
    weights, norms = nets.by_hand(nets.percentile(30))
    for found, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(float(clipwise.keras.report(optimizer).norm), norms[-1], rtol=1e-5)


def parts_of(strategy, array):
    """One part of an array on each replica."""
    count = strategy.num_replicas_in_sync
    return strategy.experimental_distribute_values_from_function(
        lambda context: tf.constant(np.array_split(array, count)[context.replica_id_in_sync_group])
    )


def in_a_loop(strategy):
    """Each replica sums the gradients over all before it clips them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(16, 5)), rng.normal(size=(16, 3))
    clip = clipwise.autoclip(40)
    with strategy.scope():
        weight = tf.Variable(np.ones((5, 3)), dtype=tf.float64)

    def replica(x, y, state):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((x @ weight - y) ** 2) / (16 * 3)
        gradient = tape.gradient(loss, weight)
        gradient = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradient)
        (gradient,), state, report = ct.clip(clip, [gradient], state, [weight])
        weight.assign_sub(RATE * gradient)
        return state, report.norm

    @tf.function
    def step(x, y, state):
        return strategy.run(replica, args=(x, y, state))

    expected, seen = np.ones((5, 3)), []
    state = ct.init(clip, [weight])
    for _ in range(STEPS):
        state, norm = step(parts_of(strategy, x), parts_of(strategy, y), state)
        gradient = x.T @ (2.0 * (x @ expected - y)) / (16 * 3)
        seen.append(np.linalg.norm(gradient))
        for one in strategy.experimental_local_results(norm):
            np.testing.assert_allclose(one, seen[-1], rtol=1e-10)
        expected -= RATE * gradient * min(1.0, np.percentile(seen, 40) / seen[-1])
    np.testing.assert_allclose(strategy.experimental_local_results(weight)[0].numpy(), expected, rtol=1e-9)


def main(name):
    if name == "workers":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    else:
        devices = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(devices[0], [tf.config.LogicalDeviceConfiguration()] * 2)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    in_a_loop(strategy)
    in_a_loop_of_keras(strategy)
    if name != "workers":
        in_fit(strategy)


if __name__ == "__main__":
    main(*sys.argv[1:])
