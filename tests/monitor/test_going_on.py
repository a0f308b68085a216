"""Whatever goes wrong beside the training, the rest is recorded, and the script goes on and ends."""

import subprocess
import sys
import threading
import warnings

import pytest

from clipwise.monitor import Monitor, MonitorWarning, Store
from clipwise.monitor import _flusher as flusher


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


def losses(path):
    with Store(path) as store:
        return store.series(1, ["loss"])["loss"].values.tolist()


def test_facts_are_what_json_can_say_and_texts_are_unicode(path):
    facts = {("a", "b"): float("nan"), "rate": float("-inf"), "own": [object, {1: "\udcff"}], "seed": 3}
    with Monitor(path, run="r\udcff", facts=facts) as monitor:
        monitor.log(loss=1.0)
    with Store(path) as store:
        run = store.run()
    assert run.name == "r\\udcff"
    assert {name: run.facts[name] for name in ("('a', 'b')", "rate", "own", "seed")} == {
        "('a', 'b')": "nan",
        "rate": "-inf",
        "own": [str(object), {"1": "\\udcff"}],
        "seed": 3,
    }


def test_a_command_line_that_is_no_unicode(path):
    code = "import clipwise, sys\nwith clipwise.Monitor(sys.argv[1]) as m: m.log(loss=1.0)"
    given = [sys.executable, "-W", "error", "-c", code, str(path), b"\xff"]
    done = subprocess.run(given, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    with Store(path) as store:
        assert "\\udcff" in store.run().command
    assert losses(path) == [1.0]


def test_an_error_of_any_kind_is_one_of_the_file(path, monkeypatch):
    """Until it can be written; then nothing is missing."""
    monitor = Monitor(path, flush=60)
    failing = [True]

    def connect():
        if failing:
            raise TypeError("of some library")
        return Monitor._connect(monitor)

    monkeypatch.setattr(monitor._flusher, "_connect", connect)
    monitor.log(step=1, loss=1.0)
    with pytest.warns(MonitorWarning, match="cannot be written just now.*of some library"):
        monitor.flush()
    failing.clear()
    monitor.log(step=2, loss=2.0)
    monitor.close()
    assert losses(path) == [1.0, 2.0]


def test_an_error_of_the_recorder_itself_ends_nothing(path, monkeypatch):
    monitor = Monitor(path, flush=0.02)
    turns, twice = [], threading.Event()

    def fail(*rows):
        turns.append(rows)
        if len(turns) == 2:  # the thread goes on
            twice.set()
        raise ZeroDivisionError

    monkeypatch.setattr(monitor._alerting, "see", fail)
    monkeypatch.setattr(monitor._alerting, "rest", fail)
    monitor.log(step=1, loss=1.0)
    with pytest.warns(MonitorWarning, match="the recorder failed, and continues: ZeroDivisionError"):
        assert twice.wait(30)
    monitor.log(step=2, loss=2.0)
    monitor.close()
    assert losses(path) == [1.0, 2.0]
    with Store(path) as store:
        assert store.run().status == "finished"


class Blocking:
    """An exporter that does not come back until it is let go."""

    def __init__(self):
        self.go, self.heard = threading.Event(), []

    def begin(self, run, facts, started=None):
        self.go.wait(30)

    def write(self, moments, alerts=()):
        self.heard += [moment.step for moment in moments]

    def close(self, status="finished"):
        self.heard.append(status)


def test_a_tool_that_does_not_come_back_holds_nothing_up(path):
    tool = Blocking()
    monitor = Monitor(path, exporters=[tool])
    for step in (1, 2):
        monitor.log(step=step, loss=float(step))
        assert monitor.flush()
    assert losses(path) == [1.0, 2.0]
    tool.go.set()
    monitor.close()
    assert tool.heard == [1, 2, "finished"]


def test_a_tool_that_never_comes_back_is_said_at_the_end(path, monkeypatch):
    monkeypatch.setattr("clipwise.monitor._exports.PATIENCE", 0.05)
    tool = Blocking()
    monitor = Monitor(path, run="r", exporters=[tool])
    monitor.log(step=1, loss=1.0)
    with pytest.warns(MonitorWarning, match=r"Blocking has not received all of run 'r' within 0\.05 seconds"):
        monitor.close()
    with Store(path) as store:
        assert store.run().status == "finished"
    tool.go.set()


def test_more_than_may_wait_for_a_tool_is_left_out_and_said(path, monkeypatch):
    monkeypatch.setattr("clipwise.monitor._exports.WAITING", 2)
    tool = Blocking()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        monitor = Monitor(path, run="r", rules=[], exporters=[tool])
        for step in range(1, 11):
            monitor.log(step=step, loss=float(step))
            monitor.flush()
        tool.go.set()
        monitor.close()
    assert [str(one.message).partition(":")[0] for one in said] == ["Blocking is too slow for run 'r'"]
    assert tool.heard[:2] == [1, 2]
    assert tool.heard[-1] == "finished"
    assert losses(path) == [float(step) for step in range(1, 11)]


def test_an_action_that_never_comes_back_does_not_keep_the_script(path, monkeypatch):
    monkeypatch.setattr(flusher, "PATIENCE", 0.1)
    monitor = Monitor(path, flush=0.02)
    go, there = threading.Event(), threading.Event()
    see = monitor._alerting.see
    monkeypatch.setattr(monitor._alerting, "see", lambda *all_: there.set() or (go.wait(30) and see(*all_)))
    monitor.log(loss=1.0)
    assert there.wait(30)
    with pytest.warns(MonitorWarning, match=r"the recorder .* has not ended within 0\.1 seconds"):
        monitor.close()
    go.set()
