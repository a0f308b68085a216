"""`clipwise.Monitor` in ``fit``: each step of the optimizer once, left-out ones included."""

import keras
import numpy as np
import pytest

import clipwise
import clipwise.keras
from clipwise.monitor import Monitor, MonitorWarning, Store
from clipwise.monitor.rules import GradientNonfinite


def fit(monitor=None, accumulate=None, others=()):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).normal(size=(48, 4)).astype("float32")
    x[16, 0] = np.nan  # in the third batch of eight
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=accumulate)
    clipwise.keras.attach(optimizer, clipwise.clip_by_global_norm(0.1))
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1, name="out")])
    model.compile(optimizer, "mse")
    watch = [] if monitor is None else [monitor.callback()]
    y = x[:, :1] * 0 + 1
    model.fit(
        x, np.nan_to_num(y), batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[*watch, *others]
    )
    return [np.array(keras.ops.convert_to_numpy(w)) for w in model.weights]


def test_every_step_and_the_same_weights(tmp_path):
    with Monitor(tmp_path / "runs.db", layers_every=1) as monitor:
        found = fit(monitor)
    for one, other in zip(found, fit(), strict=True):
        np.testing.assert_array_equal(one, other)
    with Store(tmp_path / "runs.db") as store:
        run = store.run()
        series = store.series(run.id, ["clipwise/norm", "clipwise/norm_after", "clipwise/skipped", "loss"])
        layers = store.layers(run.id)
    assert run.clip == "clip_by_global_norm(0.1)"
    assert series["clipwise/norm"].steps.tolist() == list(range(1, 13))
    assert series["clipwise/skipped"].values.tolist() == [0, 0, 1, 0, 0, 0] * 2
    taken = series["clipwise/skipped"].values == 0
    assert (series["clipwise/norm_after"].values[taken] <= 0.1 * (1 + 1e-6)).all()
    assert len(series["loss"].values) == 12
    assert layers.names == ("out.kernel", "out.bias") or len(layers.names) == 2


def test_micro_batches_are_no_steps(tmp_path):
    with Monitor(tmp_path / "runs.db") as monitor:
        fit(monitor, accumulate=2)
    with Store(tmp_path / "runs.db") as store:
        norms = store.series(1, ["clipwise/norm"])["clipwise/norm"]
    assert norms.steps.tolist() == list(range(1, 7))


def test_a_rule_ends_fit(tmp_path):
    """After the step that broke the rule the next one ends it, is recorded itself, and the run says so."""
    monitor = Monitor(tmp_path / "runs.db", rules=[GradientNonfinite(actions=("stop",))])

    class Written(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            monitor.flush()

    with pytest.warns(MonitorWarning, match="a rule stopped the training: gradient_nonfinite"), monitor:
        fit(monitor, others=[Written()])
    with Store(tmp_path / "runs.db") as store:
        run = store.run()
        norms = store.series(run.id, ["clipwise/norm"])["clipwise/norm"]
    assert run.status == "stopped"
    assert norms.steps.tolist() == [1, 2, 3, 4]


def test_a_variable_that_changes_later(tmp_path):
    variable = keras.Variable(0.0)
    with Monitor(tmp_path / "runs.db", rules=[]) as monitor:
        for step in (1, 2, 3):
            variable.assign(variable + 1.0)
            monitor.log(step=step, own=variable)
    with Store(tmp_path / "runs.db") as store:
        assert store.series(1, ["own"])["own"].values.tolist() == [1.0, 2.0, 3.0]
