"""CSV and Parquet, read back by polars, pyarrow and Python's own csv."""

import csv
import math
import subprocess
import sys

import numpy as np
import pytest

from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor.exporters import CSV, Parquet, parquet, to_csv, to_parquet
from clipwise.monitor.store import Rows, Writer

from .conftest import ALERT, LATE, LOSS, NORM, SECOND, START, TIMES, rows, same

RUN = "lstm: <b>/1"


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_has_every_number_to_the_bit(store, tmp_path):
    fed = to_csv(store, RUN, tmp_path / "out" / "x.csv")
    assert (fed.steps, fed.series, fed.layers, fed.alerts) == (5, 3, 2, 2)
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
        monkeypatch.setattr(parquet, "_saver", lambda: parquet._with_pyarrow)
    to_parquet(store, RUN, tmp_path / "x.parquet")

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
    with pytest.raises(ArgumentError, match="there already"):
        to_csv(store, "plain", out)
    assert not out.exists()
    assert (tmp_path / "x.alerts.csv").read_text() == "mine"
    to_csv(store, "plain", out, force=True)
    assert table(out)[0]["loss"] == "2.0"
    assert not (tmp_path / "x.alerts.csv").exists()  # that run has none
    with pytest.raises(ArgumentError, match="there already"):
        to_csv(store, RUN, out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".clipwise")]


def test_a_live_run_gets_a_number_where_its_name_is_taken(tmp_path):
    for expected in ("run.csv", "run-2.csv", "run-3.csv"):
        exporter = CSV(tmp_path)
        exporter.begin("run", {})
        exporter.write(rows())
        exporter.close()
        assert exporter.place.name == expected
    text = (tmp_path / "run.csv").read_text()
    assert text == (tmp_path / "run-2.csv").read_text()
    assert text.splitlines()[1].startswith("1,")


@pytest.mark.parametrize("split", [1, 2, 3])
def test_live_rows_in_any_portions_make_the_file_of_the_recording(store, tmp_path, split):
    exporter = CSV(tmp_path / "live.csv")
    exporter.begin("x", {})
    for some in rows():
        for part in np.array_split(some.data, split):
            exporter.write([Rows(some.kind, some.names, part)])
    exporter.write([], [ALERT, SECOND])
    exporter.close()
    to_csv(store, RUN, tmp_path / "x.csv")
    for kind in ("", ".layers", ".alerts"):
        live, stored = (table(tmp_path / f"{name}{kind}.csv") for name in ("live", "x"))
        assert live == stored


def test_a_name_like_the_column_of_steps_keeps_its_values(tmp_path):
    exporter = CSV(tmp_path / "x.csv")
    exporter.begin("x", {})
    exporter.write([Rows("steps", ("step", "a,b"), np.array([[7, 1.5, 2.5]]))])
    exporter.close()
    assert (tmp_path / "x.csv").read_text() == 'step,step (2),"a,b"\n7,1.5,2.5\n'


def test_many_steps_are_fed_in_portions_and_none_is_lost(tmp_path, monkeypatch):
    from clipwise.monitor.exporters import _feed
    from clipwise.monitor.exporters import csv as module

    monkeypatch.setattr(_feed, "AT_ONCE", 7)
    monkeypatch.setattr(module, "AT_ONCE", 5)
    number = np.arange(1.0, 101.0)
    with_writer = Writer(tmp_path / "c.db", "u", "long")
    with_writer.write(
        [Rows("steps", ("time", "loss"), np.column_stack([number, START + number, number / 3]))]
    )
    some = number[::3]
    with_writer.write([Rows("steps", ("time", "other"), np.column_stack([some, START + some, -some]))])
    with_writer.finish()
    from clipwise.monitor.store import Store

    with Store(tmp_path / "c.db") as store:
        to_csv(store, None, tmp_path / "x.csv")
    found = table(tmp_path / "x.csv")
    assert [float(row["loss"]) for row in found] == (number / 3).tolist()
    assert [float(row["other"]) for row in found if row["other"]] == (-some).tolist()


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
