"""What is logged is what it was at that moment; what is no number is refused, or left out alone."""

import numpy as np
import pytest

from clipwise.errors import ArgumentError
from clipwise.monitor import Monitor, MonitorWarning, Store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


def recorded(path, *names):
    with Store(path) as store:
        return {name: one.values.tolist() for name, one in store.series(1, names).items()}


@pytest.mark.parametrize("shape", [(), (1, 1)])
def test_an_array_that_changes_later(path, shape):
    total = np.zeros(shape, dtype=np.float32)
    with Monitor(path, rules=[]) as monitor:
        for step in (1, 2, 3):
            total += 1
            monitor.log(step=step, total=total)
    assert recorded(path, "total") == {"total": [1.0, 2.0, 3.0]}


def test_a_variable_that_changes_later(path):
    tensorflow = pytest.importorskip("tensorflow")
    variable = tensorflow.Variable(0.0)
    with Monitor(path, rules=[]) as monitor:
        for step in (1, 2, 3):
            variable.assign_add(1.0)
            monitor.log(step=step, own=variable, tensor=variable.read_value() * 2)
    assert recorded(path, "own", "tensor") == {"own": [1.0, 2.0, 3.0], "tensor": [2.0, 4.0, 6.0]}


def test_a_value_that_cannot_be_read_is_left_out_alone(path):
    jax = pytest.importorskip("jax")
    with Monitor(path, flush=60, rules=[]) as monitor:
        for step in (1, 2, 3):
            scale = jax.numpy.float32(step) + 1
            monitor.log(step=step, loss=float(step), scale=scale)
            if step == 2:  # as a step does that is given its state
                scale.delete()
        with pytest.warns(MonitorWarning, match=r"scale of step 2: RuntimeError: Array has been deleted"):
            monitor.flush()
    assert recorded(path, "loss", "scale") == {"loss": [1.0, 2.0, 3.0], "scale": [2.0, 4.0]}


@pytest.mark.parametrize(
    "value",
    [np.array("abc"), np.array(["0.5"]), np.array(1j), np.datetime64("2026-01-01"), 10**400],
    ids=["text", "number as text", "complex", "date", "too large"],
)
def test_what_is_no_number_is_refused_at_once(path, value):
    with Monitor(path) as monitor:
        with pytest.raises(ArgumentError, match="log takes numbers, got loss="):
            monitor.log(step=7, loss=value)
        assert monitor.step == 0
