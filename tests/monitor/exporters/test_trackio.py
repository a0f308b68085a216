"""trackio reads what was written, out of its local storage."""

import os
import subprocess
import sys
from datetime import datetime

import pytest

from clipwise.errors import ArgumentError
from clipwise.monitor.exporters import Trackio, export

from .conftest import ALERT, FACTS, LATE, LAYERS, LOSS, NORM, TIMES, pieces, same

RUN = "lstm: <b>/1"


@pytest.fixture(scope="module", autouse=True)
def storage(tmp_path_factory):
    """trackio knows one folder in a process: that of all these tests."""
    if "trackio" in sys.modules:
        pytest.skip("trackio is imported already, with a folder of its own")
    folder = tmp_path_factory.mktemp("trackio")
    before = os.environ.get("TRACKIO_DIR")
    os.environ["TRACKIO_DIR"] = str(folder)
    try:
        pytest.importorskip("trackio", reason="trackio, which asks for pillow below 13, is not installed")
    finally:
        os.environ.pop("TRACKIO_DIR")
        if before is not None:
            os.environ["TRACKIO_DIR"] = before
    from trackio.sqlite_storage import SQLiteStorage

    return folder, SQLiteStorage


def series(logs, name):
    return {line["step"]: float(line[name]) for line in logs if name in line}


def test_every_series_with_steps_times_facts_and_alerts(store, storage):
    folder, trackio = storage
    done = export(store, RUN, Trackio("p", folder=folder))
    assert done.place == str(folder)
    logs = trackio.get_logs("p", RUN)
    same(series(logs, "loss"), LOSS)
    same(series(logs, "clipwise/norm"), NORM)
    same(series(logs, "accuracy"), LATE)
    same(series(logs, "clipwise/norm/a.weight"), {s: v["a.weight"] for s, v in LAYERS.items()})
    assert {line["step"]: datetime.fromisoformat(line["timestamp"]).timestamp() for line in logs} == TIMES
    config = trackio.get_run_config("p", RUN)
    assert {key: config[key] for key in FACTS} == FACTS
    assert config["clip"] == "clip_by_norm(1.0)"
    second, first = trackio.get_alerts("p", RUN)
    assert (first["level"], first["title"], first["step"]) == ("error", "loss_nonfinite", 2)
    assert first["text"] == f"{ALERT} (rank 1)"
    assert second["level"] == "warn"


def test_live_a_run_of_the_same_name_is_another_one(storage):
    _, trackio = storage
    for number in (1, 2):
        exporter = Trackio("live")
        exporter.begin("same", {"number": number})
        for some in pieces():
            exporter.write(some)
        exporter.write([], [ALERT])
        exporter.close()
    records = trackio.get_run_records("live")
    assert len(records) == 2
    for one in records:
        same(series(trackio.get_logs("live", run_id=one["id"]), "loss"), LOSS)


def test_another_folder_and_a_name_that_is_none_are_named(tmp_path):
    with pytest.raises(ArgumentError, match="imported already"):
        Trackio(folder=tmp_path)
    with pytest.raises(ArgumentError, match="reserved"):
        Trackio("x_configs")


def test_the_folder_is_its_own_in_a_fresh_process(path, tmp_path):
    code = (
        "import sys, os; from clipwise.monitor import Store;"
        "from clipwise.monitor.exporters import Trackio, export;"
        "export(Store(sys.argv[1]), 'plain', Trackio(folder=sys.argv[2]));"
        "assert 'TRACKIO_DIR' not in os.environ"
    )
    out = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", code, path, out], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (out / "clipwise.db").exists()
