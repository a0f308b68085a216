"""CSV and Parquet, read back by polars, pyarrow and Python's own csv."""

import csv
import math
import subprocess
import sys

import numpy as np
import pytest

from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor.exporters import CSV, Parquet, export, parquet
from clipwise.monitor.store import Rows, Store, Writer

from .conftest import ALERT, LATE, LOSS, NORM, SECOND, START, TIMES, same, steps

RUN = "lstm: <b>/1"


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def to_csv(store, run, path, force=False):
    return export(store, run, CSV(path, taken="replace" if force else "refuse"))


def test_csv_has_every_number_to_the_bit(store, tmp_path):
    done = to_csv(store, RUN, tmp_path / "out" / "x.csv")
    assert (done.steps, done.series, done.parameters, done.alerts) == (5, 3, 2, 2)
    found = table(tmp_path / "out" / "x.csv")
    assert list(found[0]) == ["step", "time", "clipwise/norm", "loss", "accuracy"]
    assert [row["step"] for row in found] == list("12345")
    same({int(row["step"]): float(row["loss"]) for row in found}, LOSS)
    same({int(row["step"]): float(row["clipwise/norm"]) for row in found}, NORM)
    same({int(row["step"]): float(row["time"]) for row in found}, TIMES)
    same({int(row["step"]): float(row["accuracy"]) for row in found if row["accuracy"]}, LATE)
    assert [row["loss"] for row in found] == ["0.75", "NaN", "inf", "-inf", "0.1"]
    assert [row["accuracy"] for row in found] == ["", "0.5", "", "0.25", ""]


def test_csv_has_layers_and_alerts_in_files_of_their_own(store, tmp_path):
    to_csv(store, RUN, tmp_path / "x.csv")
    found = table(tmp_path / "x.layers.csv")
    assert [(row["step"], row["a.weight"], row["a.bias"]) for row in found] == [
        ("2", "NaN", "0.5"),
        ("4", "1.5", ""),
    ]
    first, second = table(tmp_path / "x.alerts.csv")
    assert first["seen"] == ALERT.seen
    assert (first["rule"], first["step"], first["rank"]) == ("loss_nonfinite", "2", "1")
    assert (second["why"], second["seen"]) == (SECOND.why, SECOND.seen)  # with a line break, and a comma


def test_a_folder_takes_the_name_of_the_run_and_a_run_without_layers_has_no_file_of_them(store, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert to_csv(store, RUN, out).place == str(out / "lstm_b_1.csv")
    to_csv(store, "plain", out)
    names = {path.name for path in out.iterdir()}
    assert names == {"lstm_b_1.csv", "lstm_b_1.layers.csv", "lstm_b_1.alerts.csv", "plain.csv"}


@pytest.mark.parametrize("tool", ["polars", "pyarrow"])
@pytest.mark.parametrize("reader", ["polars", "pyarrow"])
def test_parquet_by_one_tool_is_read_by_the_other(store, tmp_path, monkeypatch, tool, reader):
    pytest.importorskip(tool, reason=f"{tool} is not installed")
    pytest.importorskip(reader, reason=f"{reader} is not installed")
    if tool == "pyarrow":
        monkeypatch.setitem(sys.modules, "polars", None)
    exporter = Parquet(tmp_path / "x.parquet")
    monkeypatch.undo()
    monkeypatch.setattr(parquet, "CELLS", 8)  # several pieces, one of them without any accuracy
    export(store, RUN, exporter)
    assert type(exporter._steps._writer).__name__.lower() == f"_{tool}"
    assert len(list(tmp_path.glob("x*.parquet*"))) == 3

    def read(name):
        if reader == "polars":
            import polars

            return polars.read_parquet(tmp_path / name).to_dict(as_series=False)
        import pyarrow.parquet

        return pyarrow.parquet.read_table(tmp_path / name).to_pydict()

    found = read("x.parquet")
    assert found["step"] == [1, 2, 3, 4, 5]
    same(dict(zip(found["step"], found["loss"], strict=True)), LOSS)
    same(dict(zip(found["step"], found["clipwise/norm"], strict=True)), NORM)
    assert found["accuracy"] == [None, 0.5, None, 0.25, None]
    found = read("x.layers.parquet")
    assert math.isnan(found["a.weight"][0])
    assert (found["a.weight"][1], found["a.bias"]) == (1.5, [0.5, None])
    found = read("x.alerts.parquet")
    assert found["advice"] == [ALERT.advice, SECOND.advice]
    assert found["time"] == [TIMES[2], TIMES[4]]


def test_parquet_without_a_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r'needs polars.*pip install "clipwise\[parquet\]"'):
        Parquet()


def test_what_is_there_stays_unless_it_is_to_be_replaced(store, tmp_path):
    out = tmp_path / "x.csv"
    (tmp_path / "x.alerts.csv").write_text("mine")
    with pytest.raises(ArgumentError, match="already exists"):
        to_csv(store, "plain", out)
    assert not out.exists()
    assert (tmp_path / "x.alerts.csv").read_text() == "mine"
    to_csv(store, "plain", out, force=True)
    assert table(out)[0]["loss"] == "2.0"
    assert not (tmp_path / "x.alerts.csv").exists()  # that run has none
    with pytest.raises(ArgumentError, match="already exists"):
        to_csv(store, RUN, out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".clipwise")]


def recorded(path, exporter, parts):
    """A run that is exported when it ends, recorded in so many parts; without the rules' own alerts."""
    from clipwise.monitor import Monitor

    with Monitor(path, run="run", rules=[], flush=60, exporters=[exporter]) as monitor:
        for number in range(1, 11):
            monitor.log(step=number, loss=number / 3)
            if number % 3 == 0:
                monitor.log(name="critic", loss=-number / 3)
            if number * parts % 10 == 0:
                monitor.flush()


def test_a_live_run_gets_a_number_where_its_name_is_taken(tmp_path):
    for expected in ("run.csv", "run-2.csv", "run-3.csv"):
        exporter = CSV(tmp_path)
        recorded(tmp_path / f"{expected}.db", exporter, 1)
        assert exporter.place.name == expected
    found = table(tmp_path / "run.csv")
    assert [row["loss"] for row in found] == [row["loss"] for row in table(tmp_path / "run-2.csv")]
    assert (found[0]["step"], float(found[0]["loss"])) == ("1", 1 / 3)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_a_live_run_in_any_portions_makes_the_file_of_the_recording(tmp_path, parts):
    recorded(tmp_path / "runs.db", CSV(tmp_path / "live.csv"), parts)
    with Store(tmp_path / "runs.db") as store:
        to_csv(store, "run", tmp_path / "x.csv")
    live, stored = (table(tmp_path / f"{name}.csv") for name in ("live", "x"))
    assert live == stored
    assert [float(row["loss"]) for row in live] == [number / 3 for number in range(1, 11)]
    assert [row["critic/loss"] for row in live if row["critic/loss"]] == ["-1.0", "-2.0", "-3.0"]


def test_a_run_that_ends_with_a_recording_nobody_can_write_makes_no_table(tmp_path):
    from clipwise.monitor import Monitor, MonitorWarning

    monitor = Monitor(tmp_path / "none" / "runs.db", exporters=[CSV(tmp_path)])
    monitor.log(step=1, loss=1.0)
    with pytest.warns(MonitorWarning):
        monitor.close()
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_cannot_be_written_is_said_and_the_run_is_recorded(tmp_path):
    (tmp_path / "file").write_text("mine")
    from clipwise.monitor import MonitorWarning

    with pytest.warns(MonitorWarning, match="CSV got nothing of run 'run': .*file"):
        recorded(tmp_path / "runs.db", CSV(tmp_path / "file" / "x.csv"), 1)
    with Store(tmp_path / "runs.db") as store:
        assert len(store.series(1, ["loss"])["loss"].steps) == 10


def test_an_export_that_fails_on_the_way_leaves_nothing(store, path, tmp_path):
    import sqlite3

    with sqlite3.connect(path) as database:
        database.execute("UPDATE frames SET data = x'0011' WHERE run = 1 AND first_step = 2")
    for exporter in (CSV(tmp_path / "out"), CSV(tmp_path / "x.csv", taken="replace")):
        (tmp_path / "x.csv").write_text("mine")
        with pytest.raises(StoreError, match="damaged"):
            export(store, RUN, exporter)
        assert (tmp_path / "x.csv").read_text() == "mine"
        assert not [one for one in tmp_path.rglob("*") if one.name.startswith(".clipwise")]


def test_a_name_like_the_column_of_steps_keeps_its_values(tmp_path):
    writer = Writer(tmp_path / "c.db", "u", "x")
    writer.write([Rows("steps", ("step", "a,b"), np.array([[7, 1.5, 2.5]]))])
    writer.finish()
    with Store(tmp_path / "c.db") as store:
        to_csv(store, None, tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == 'step,step (2),"a,b"\n7,1.5,2.5\n'


def test_many_steps_are_exported_in_portions_and_none_is_lost(tmp_path, monkeypatch):
    from clipwise.monitor.exporters import _export

    monkeypatch.setattr(_export, "AT_ONCE", 7)
    monkeypatch.setattr("clipwise.monitor.store.reader.AT_ONCE", 5)
    number = np.arange(1.0, 101.0)
    writer = Writer(tmp_path / "c.db", "u", "long")
    writer.write([steps("loss", data=np.column_stack([number, START + number, number / 3]))])
    some = number[::3]
    writer.write([steps("other", data=np.column_stack([some, START + some, -some]))])
    writer.write([Rows("steps", ("loss",), np.column_stack([some, some]), "critic")])
    writer.finish()
    shares = []
    with Store(tmp_path / "c.db") as store:
        done = export(store, None, CSV(tmp_path / "x.csv"), progress=shares.append)
    found = table(tmp_path / "x.csv")
    assert done.steps == len(found) == 100
    assert [float(row["loss"]) for row in found] == (number / 3).tolist()
    assert [float(row["other"]) for row in found if row["other"]] == (-some).tolist()
    assert [float(row["critic/loss"]) for row in found if row["critic/loss"]] == some.tolist()
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert shares[-1] == 1.0


def test_mistakes_are_named_before_anything_is_written(store, path, tmp_path):
    with pytest.raises(ArgumentError, match="'oops'"):
        CSV(tmp_path, taken="oops")
    with pytest.raises(ArgumentError, match=r"must end in \.csv"):
        to_csv(store, RUN, tmp_path / "x.parquet")
    with pytest.raises(StoreError, match="no run 'lstn'"):
        to_csv(store, "lstn", tmp_path / "x.csv")
    Writer(path, "w", "empty").finish()
    with pytest.raises(StoreError, match="nothing was recorded of run 'empty'"):
        to_csv(store, "empty", tmp_path / "x.csv")
    assert [one.name for one in tmp_path.iterdir() if one.suffix not in (".db", ".db-shm", ".db-wal")] == []


def test_no_tool_is_loaded_before_it_is_used():
    code = (
        "import sys, clipwise.monitor.exporters as e; e.CSV();"
        "print([m for m in ('tensorboard','wandb','mlflow','trackio','polars','pyarrow','torch')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
