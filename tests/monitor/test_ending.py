"""How a run ended: what is said of it is what ended it, and nothing that was there before."""

import sys

import pytest

from clipwise.errors import TrainingStopped
from clipwise.monitor import Monitor, Store
from clipwise.monitor.suggest import suggest


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs.db"


def ended(path):
    with Store(path) as store:
        run = store.run()
        return run.status, run.note


def training(monitor, error=None):
    monitor.log(loss=1.0)
    if error is not None:
        raise error


def closed_at_last(path, error=None):
    monitor = Monitor(path)
    try:
        training(monitor, error)
    finally:
        monitor.close()


@pytest.mark.parametrize(
    ("error", "status", "note"),
    [
        (ValueError("bad"), "failed", "ValueError: bad"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt: "),
        (TrainingStopped("a rule"), "stopped", "TrainingStopped: a rule"),
        (SystemExit(0), "finished", ""),
        (SystemExit(), "finished", ""),
        (SystemExit("no data"), "failed", "SystemExit: no data"),
        (SystemExit(3), "failed", "SystemExit: 3"),
    ],
    ids=repr,
)
def test_what_is_under_way_when_it_is_closed(path, error, status, note):
    with pytest.raises(type(error)):
        closed_at_last(path, error)
    assert ended(path) == (status, note)
    with pytest.raises(type(error)), Monitor(path) as monitor:
        training(monitor, error)
    assert ended(path) == (status, note)


def test_what_was_there_before_did_not_end_it(path, monkeypatch):
    monkeypatch.setattr(sys, "last_value", ValueError("of a line before"), raising=False)
    closed_at_last(path)
    assert ended(path) == ("finished", "")
    try:
        raise MemoryError
    except MemoryError:  # and once more, with a smaller batch
        closed_at_last(path)
        assert ended(path) == ("finished", "")
        with pytest.raises(ValueError, match="bad"):
            closed_at_last(path, ValueError("bad"))
    assert ended(path) == ("failed", "ValueError: bad")


def test_what_ended_the_cell_before_it_was_closed(path, monkeypatch):
    monitor = Monitor(path)
    monitor.log(loss=1.0)
    monkeypatch.setattr(sys, "last_value", ValueError("of a cell"), raising=False)
    monitor.close()
    assert ended(path) == ("failed", "ValueError: of a cell")


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("losses", "status", "note"),
    [
        ([3.0, NAN, NAN, NAN], "diverged", "broke down at step 2: from there it ends in NaN or Inf"),
        ([82.0, 2e26, 3e26, *[2e26] * 40], "diverged", "broke down at step 2: from there the loss is worse"),
        ([3.0, 2.0, 1.0, 2.9] * 10, "finished", ""),
    ],
)
@pytest.mark.parametrize("name", ["loss", "train/loss"])
def test_a_run_that_broke_down_is_no_finished_one(path, losses, status, note, name):
    with Monitor(path, rules=[]) as monitor:
        for step, loss in enumerate(losses, start=1):
            monitor.log(step=step, **{name: loss})
    found, said = ended(path)
    assert found == status
    assert note in said


def test_a_step_that_was_left_out_at_the_end_is_no_breakdown(path):
    norms = [1.0] * 99 + [INF]
    with Monitor(path, rules=[]) as monitor:
        for step, norm in enumerate(norms, start=1):
            monitor.log(step=step, **{"clipwise/norm": norm})
    assert ended(path) == ("finished", "")
    found = suggest(norms)
    assert found.verdict == "not needed"
    assert "broke down" not in " ".join(found.reasons)
