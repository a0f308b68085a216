"""Results on disk: nothing is lost, neither digits nor earlier files."""

import csv
import io
import json
import math
import os
from pathlib import Path

import pytest

from clipwise.errors import ArgumentError, DataError
from clipwise.lab.report.results import Results, check_folder, interrupted_folder, load, save, steps_csv
from tests.lab.records import clipped, record

NAN, INF = math.nan, math.inf


def test_json_is_standard_and_reads_back_to_the_last_digit(tmp_path: Path) -> None:
    runs = (record(loss=[1 / 3, NAN, INF], norm=[0.1, NAN, INF]), clipped(held_out=[2.0, -INF]))
    path = tmp_path / "comparison.json"
    path.write_text(Results("comparison", runs, "c.json").to_json())

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    data = json.loads(path.read_text(), parse_constant=refuse)
    assert data["figures"][0]["diverged"] is True
    assert data["verdict"][0].startswith("Without clipping the run diverged")
    assert repr(load(path)) == repr(list(runs))  # repr, because NaN equals nothing


def test_figures_and_records_are_in_one_order(tmp_path: Path) -> None:
    runs = tuple(make(seed=s, held_out=[2.0 + s]) for s in (3, 4) for make in (record, clipped))
    results = Results("comparison", runs, "c.json")
    path = tmp_path / "comparison.json"
    path.write_text(results.to_json())
    data = json.loads(path.read_text())
    orders = [[(run["label"], run["seed"]) for run in data[name]] for name in ("figures", "records")]
    assert orders[0] == orders[1]
    assert {repr(run) for run in load(path)} == {repr(run) for run in runs}
    assert repr(Results("comparison", tuple(load(path)), "c.json").groups()) == repr(results.groups())


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"records": [{"label": "x"}]}'])
def test_load_refuses_what_is_no_result(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"x\.json is not a result of clipwise"):
        load(path)
    with pytest.raises(DataError, match="cannot read"):
        load(tmp_path / "none.json")


def test_a_target_that_is_given_is_kept() -> None:
    runs = (record(held_out=[3.0]),)
    assert Results("comparison", runs, "c").the_target() == 3.0
    assert Results("comparison", runs, "c", target=1.0).groups()[0].first.target == 1.0


def test_save_replaces_its_files_and_leaves_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    save(folder, {"x.json": "1", "y.png": b"2"})
    (folder / "notes.txt").write_text("mine")
    extra = tmp_path / "model.pt"
    extra.write_bytes(b"weights")
    save(folder, {"x.json": "3"}, extra=[extra])
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        "x.json": b"3",
        "y.png": b"2",
        "notes.txt": b"mine",
        "model.pt": b"weights",
    }
    assert [p.name for p in folder.parent.iterdir()] == ["b"]  # nothing temporary is left


def test_a_failure_in_the_middle_leaves_earlier_results_as_they_were(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    save(folder, {"x.json": "old", "y.csv": "old"})
    with pytest.raises(ArgumentError, match="cannot write results to"):
        save(folder, {"x.json": "new", "no/such/folder.csv": "new"})
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"x.json": "old", "y.csv": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_check_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    check_folder(tmp_path)
    check_folder(tmp_path / "new" / "newer")
    with pytest.raises(ArgumentError, match="is a file; give a folder"):
        check_folder(file)
    with pytest.raises(ArgumentError, match=f"{file} is not a folder"):
        check_folder(file / "below")
    link = tmp_path / "link"
    link.symlink_to(link)
    with pytest.raises(ArgumentError, match="symbolic links"):
        check_folder(link)


@pytest.mark.parametrize("place", [".", "new"])
def test_check_folder_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(ArgumentError, match="is not a folder one may write to"):
        check_folder(tmp_path / place)
    assert list(tmp_path.iterdir()) == []


def test_partial_results_never_replace_earlier_ones(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    assert interrupted_folder(folder) == folder
    for name in ("out", "out-interrupted", "out-interrupted-2"):
        assert interrupted_folder(folder) == tmp_path / name
        save(tmp_path / name, {"x": "1"})
    assert interrupted_folder(folder) == tmp_path / "out-interrupted-3"


def test_steps_csv() -> None:
    rows = list(csv.DictReader(io.StringIO(steps_csv(clipped(loss=[1.5, NAN])))))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert float(rows[0]["loss"]) == 1.5
    assert math.isnan(float(rows[1]["loss"]))
