"""`clipwise.Monitor` in ``fit``: each step of the optimizer once, left-out ones included."""

import keras
import numpy as np
import pytest

import clipwise
import clipwise.keras
from clipwise.monitor import Monitor, MonitorWarning, Store
from clipwise.monitor.rules import ClipFreezesAdam, GradientNonfinite
from tests.keras.on_backend import nets


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


def test_the_eps_of_adam_is_known(tmp_path):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1, name="out")])
    clip = clipwise.clip_by_global_norm(1e-6)
    model.compile(clipwise.keras.attach(keras.optimizers.Adam(0.1, epsilon=1e-5), clip), "mse")
    x = np.ones((80, 4), "float32")
    with Monitor(tmp_path / "runs.db", rules=[ClipFreezesAdam(actions="record")]) as monitor:
        model.fit(x, x[:, :1] * 50, batch_size=4, verbose=0, callbacks=[monitor.callback()])
    with Store(tmp_path / "runs.db") as store:
        [alert] = store.alerts(1)
        entries = store.series(1, ["adam/entries"])["adam/entries"]
    assert "where Adam's eps is 1e-05" in alert.seen
    assert (entries.values.tolist(), entries.steps.tolist()) == ([5.0], [1])


class Kept(keras.callbacks.Callback):
    """Records each step by hand, too, and keeps all that is said of it."""

    def __init__(self, monitor):
        super().__init__()
        self.monitor, self.reports, self.bounds = monitor, [], []

    def on_train_batch_end(self, batch, logs=None):
        self.reports.append(clipwise.keras.report(self.model.optimizer))
        self.bounds.append(clipwise.keras.weights_report(self.model.optimizer))
        self.monitor.record(self.reports[-1], name="own")
        self.monitor.record(self.bounds[-1], name="bounds")


def test_each_step_as_by_hand_however_late_it_is_read(tmp_path):
    """The recorder reads nothing before the training has ended, and the reports are looked at after that."""
    made = clipwise.keras.attach(
        keras.optimizers.SGD(nets.RATE), "clip_by_global_norm(14.0)", weights="clip_by_global_norm(100.0)"
    )
    with Monitor(tmp_path / "runs.db", layers_every=1, flush=600.0, rules=[]) as monitor:
        kept = Kept(monitor)
        nets.fitted(made, callbacks=[monitor.callback(), kept])
    _, norms = nets.by_hand(nets.globally(14.0))
    ends = [nets.by_hand(nets.globally(14.0), x=nets.X[:n])[0] for n in range(8, 49, 8)]
    after = np.minimum(norms, 14.0)
    assert len(set(np.round(norms, 3))) == len(norms) == 6
    assert 0 < sum(norm > 14 for norm in norms) < len(norms)

    def check(values, expected):
        np.testing.assert_allclose(values, expected, rtol=1e-5)  # float32 after up to six steps

    with Store(tmp_path / "runs.db") as store:
        for source in ("", "own"):
            names = ["clipwise/norm", "clipwise/norm_after", "clipwise/threshold", "clipwise/clip_fraction"]
            series = store.series(1, names, source)
            check(series["clipwise/norm"].values, norms)
            check(series["clipwise/norm_after"].values, after)
            check(series["clipwise/threshold"].values, 14.0)
            check(series["clipwise/clip_fraction"].values, np.asarray(norms) > 14.0)
            check(np.linalg.norm(store.layers(1, source).norms, axis=1), norms)
        check(
            store.series(1, ["clipwise/norm"], "bounds")["clipwise/norm"].values, list(map(nets.total, ends))
        )
    for report, norm, cut in zip(kept.reports, norms, after, strict=True):
        check([float(report.norm), float(report.norm_after)], [norm, cut])
        check(np.linalg.norm(list(report.norms().values())), norm)
        assert bool(report.clipped) == (norm > 14.0)
    check([float(report.norm) for report in kept.bounds], list(map(nets.total, ends)))


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
