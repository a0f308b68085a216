"""How a run ended: what is said of it is what ended it, and nothing that was there before."""

import sys

import pytest

from clipwise.errors import TrainingStopped
from clipwise.monitor import Monitor, Store


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
        (KeyboardInterrupt(), "failed", "KeyboardInterrupt: "),
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
