"""Weights & Biases offline: its file, read back with W&B's own records."""

import json
import os
import struct
import time

import pytest

from clipwise.errors import ArgumentError
from clipwise.monitor.exporters import Wandb, export
from tests.depth import thorough

from .conftest import ALERT, LATE, LAYERS, LOSS, NORM, TIMES, pieces, same

pytest.importorskip("wandb", reason="wandb is not installed")

from wandb.proto import wandb_internal_pb2

RUN = "lstm: <b>/1"
BLOCK, HEADER = 32768, 7


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """Nothing of the machine's own settings, and none left to it."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("CONFIG", "CACHE", "DATA"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")


def records(folder):
    """All of W&B's records: its own process writes the last of them a moment after a run is finished."""
    (path,) = folder.glob("*.wandb")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        found = list(parsed(path.read_bytes()))
        if any(record.WhichOneof("record_type") == "exit" for record in found):
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} never had an end")


def parsed(data):
    """Records out of blocks of a LevelDB log: a checksum, a length, and whether a record goes on."""
    place, whole = HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, size, kind = struct.unpack_from("<IHB", data, place)
        whole += data[place + HEADER : place + HEADER + size]
        place += HEADER + size
        if kind in (1, 4):  # all of a record, or its end
            yield wandb_internal_pb2.Record.FromString(whole)
            whole = b""


def history(found):
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]


def series(lines, name):
    return {line["step"]: line[name] for line in lines if name in line}


@thorough
def test_every_series_with_steps_times_facts_and_alerts(store, tmp_path):
    done = export(store, RUN, Wandb("p", folder=tmp_path / "out"))
    assert os.environ.get("WANDB_MODE") is None
    (folder,) = (tmp_path / "out" / "wandb").glob("offline-run-*")
    assert done.place == str(folder)
    found = records(folder)
    (run,) = (record.run for record in found if record.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name) == ("p", RUN)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["seed"], config["clip"], config["command"]) == (3, "clip_by_norm(1.0)", "python t.py")
    lines = history(found)
    same(series(lines, "loss"), LOSS)
    same(series(lines, "clipwise/norm"), NORM)
    same(series(lines, "accuracy"), LATE)
    same(series(lines, "clipwise/norm/a.weight"), {s: v["a.weight"] for s, v in LAYERS.items()})
    assert series(lines, "_timestamp") == TIMES
    (metric,) = (record.metric for record in found if record.WhichOneof("record_type") == "metric")
    assert (metric.glob_name, metric.step_metric) == ("*", "step")
    first, second = (record.alert for record in found if record.WhichOneof("record_type") == "alert")
    assert (first.level, first.title) == ("ERROR", "loss_nonfinite at step 2")
    assert first.text == f"{ALERT} (rank 1)"
    assert (second.level, second.wait_duration) == ("WARN", 1)


def test_live_late_values_are_kept_and_a_run_of_the_script_is_left_alone(tmp_path):
    import wandb

    exporter = Wandb(folder=tmp_path)
    exporter.begin("live", {"seed": 1})
    assert wandb.run is None
    for some in pieces():  # accuracy of steps 2 and 4 comes after step 5
        exporter.write(some)
    exporter.close("failed")
    exporter.close()
    found = records(exporter.place)
    lines = history(found)
    same(series(lines, "loss"), LOSS)
    same(series(lines, "accuracy"), LATE)
    assert [record.exit.exit_code for record in found if record.WhichOneof("record_type") == "exit"] == [1]
    assert not (exporter.place / "files" / "requirements.txt").exists()


def test_a_mode_that_is_none_is_named(monkeypatch):
    with pytest.raises(ArgumentError, match="'ofline'"):
        Wandb(mode="ofline")
    monkeypatch.setenv("WANDB_MODE", "never")
    with pytest.raises(ArgumentError, match="'never'"):
        Wandb()
