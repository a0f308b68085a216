"""Rules over a recording on disk say what they say over the moments themselves."""

import dataclasses
import subprocess
import sys

import numpy as np

from clipwise.monitor.rules import LossNonfinite, default_rules, replay
from clipwise.monitor.store import Rows, Store, Writer
from tests.monitor.rules.recordings import by_default, recording


def written(path, name):
    """A recording as the Monitor writes it: clip, log and layers in rows of their own, in several frames."""
    whole = recording(name)
    writer = Writer(path, "uid", name, 3)
    for part in (whole[:20], whole[20:]):
        own = [n for n in part[0].values if n != "loss"]
        layers = [m for m in part if m.layers]
        writer.write(
            [
                rows(
                    "steps",
                    ["time", *own],
                    [[m.step, 100.0 + m.step, *(m.values[n] for n in own)] for m in part],
                ),
                rows("steps", ["time", "loss"], [[m.step, 100.5 + m.step, m.values["loss"]] for m in part]),
                rows("layers", list(layers[0].layers), [[m.step, *m.layers.values()] for m in layers]),
            ]
        )
    writer.finish()
    return whole


def rows(kind, names, data):
    return Rows(kind, tuple(names), np.asarray(data, dtype=np.float64))


def test_a_recorded_run_says_the_same(tmp_path):
    whole = written(tmp_path / "runs.db", "pm25_unclipped")
    with Store(tmp_path / "runs.db") as store:
        shown = list(store.moments(1))
        alerts = replay(default_rules(), store, 1)
        assert store.alerts(1) == []
    assert [m.step for m in shown] == [m.step for m in whole]
    for one, other in zip(shown, whole, strict=True):
        assert one.layers.keys() == other.layers.keys()
        np.testing.assert_array_equal([one.values[n] for n in other.values], list(other.values.values()))
        assert "time" not in one.values
    expected = by_default(whole)
    assert len(expected) == 4
    assert [(a.rule, a.step, a.seen) for a in alerts] == [(a.rule, a.step, a.seen) for a in expected]
    assert {(a.rank, a.time - a.step) for a in alerts} == {
        (3, 100.0)
    }  # when the first of a step was recorded


def test_steps_that_were_taken_again_are_shown_again(tmp_path):
    writer = Writer(tmp_path / "runs.db", "uid", "again")
    writer.write(
        [rows("steps", ["loss"], [[1, 1.0], [2, 2.0]]), rows("steps", ["loss"], [[2, np.nan], [3, 3.0]])]
    )
    writer.finish()
    with Store(tmp_path / "runs.db") as store:
        assert [(m.step, str(m.values["loss"])) for m in store.moments(1)] == [
            (1, "1.0"),
            (2, "2.0"),
            (2, "nan"),
            (3, "3.0"),
        ]
        [alert] = replay([LossNonfinite(level="info")], store, 1)
    assert dataclasses.astuple(alert)[:3] == ("loss_nonfinite", "info", 2)


def test_an_empty_run_says_nothing(tmp_path):
    Writer(tmp_path / "runs.db", "uid", "empty").finish()
    with Store(tmp_path / "runs.db") as store:
        assert replay(default_rules(), store, 1) == []


def test_rules_load_no_framework():
    code = (
        "import sys, clipwise.monitor.rules; print({'torch', 'jax', 'keras', 'apprise'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
