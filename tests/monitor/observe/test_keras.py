"""Keras scripts under ``clipwise observe``."""

import sys

import numpy as np
import pytest

from clipwise.monitor import Store
from tests.depth import brief, thorough
from tests.monitor.observe.running import SCRIPTS, observed, run


@pytest.mark.parametrize("backend", brief(["jax", "tensorflow", "torch"], "jax"))
def test_fit_is_recorded_and_as_ever(backend, tmp_path):
    pytest.importorskip("keras")
    pytest.importorskip(backend)
    script = SCRIPTS / "keras_fit.py"
    env = {"KERAS_BACKEND": backend}
    plain = run(sys.executable, script, tmp_path / "plain.keras", env=env)
    assert plain.returncode == 0, plain.stderr
    done = observed("--db", tmp_path / "a.db", "--", sys.executable, script, tmp_path / "b.keras", env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    with Store(tmp_path / "a.db") as store:
        found = store.series(store.run().id, ["clipwise/norm", "loss"])
        second = store.series(store.run().id, ["clipwise/norm", "loss"], "second")
        assert store.run().title("").startswith("sequential")
    assert {name: one.steps.tolist() for name, one in second.items()} == {"clipwise/norm": [1], "loss": [1]}
    assert found["clipwise/norm"].steps.tolist() == list(range(1, 14))
    assert (found["clipwise/norm"].values > 0).all()
    assert np.isfinite(found["loss"].values).all()


@thorough
def test_a_clip_from_outside(tmp_path):
    pytest.importorskip("keras")
    pytest.importorskip("jax")
    done = observed(
        *("--db", tmp_path / "a.db", "--clip", "clip_by_global_norm(0.5)", "--"),
        *(sys.executable, SCRIPTS / "keras_fit.py", tmp_path / "a.keras"),
        env={"KERAS_BACKEND": "jax"},
    )
    assert done.returncode == 0, done.stderr
    with Store(tmp_path / "a.db") as store:
        found = store.run()
        assert found.clip == "clip_by_global_norm(0.5)"
        after = store.series(found.id, ["clipwise/norm_after"])["clipwise/norm_after"].values
    assert after.max() <= 0.5 * (1 + 1e-5)
