"""The list of runs, and what people change of one."""

import io
import json
import math
import sqlite3

import numpy as np
import pytest

from clipwise.cli import main
from clipwise.cli.runs import ORDERS
from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor.store import (
    Alert,
    Rows,
    Store,
    Writer,
    annotate,
    arranged,
    delete,
    overview,
    rename,
    sweeps,
)


@pytest.fixture
def path(tmp_path):
    """Three runs with a loss, and one without; the last is running."""
    path = tmp_path / "runs.db"
    for number, (name, losses) in enumerate(
        [("lstm", [3.0, 0.5]), ("gru", [2.0, math.nan]), ("rnn", [9.0, 0.25]), ("bare", [])], start=1
    ):
        writer = Writer(path, f"u{number}", name, facts={"sweep": "cells"} if number < 3 else {})
        for step, loss in enumerate(losses, start=1):
            writer.write([Rows("steps", ("time", "train_loss"), np.array([[step, 0.0, loss]]))])
        writer.write([Rows("steps", ("time", "accuracy"), np.array([[9, 0.0, 0.9]]))])
        if name == "gru":
            writer.write(alerts=[Alert("r", level, 2, "a", "b", "c") for level in ("critical", "warning")])
        writer.close() if name == "bare" else writer.finish()
    return path


def named(found):
    return [one.run.name for one in found]


def test_overview(path):
    with Store(path) as store:
        found = store.overview()
    by_name = {one.run.name: one for one in found}
    assert named(found) == ["bare", "rnn", "gru", "lstm"]
    assert [by_name[name].loss for name in ("lstm", "rnn", "bare")] == [0.5, 0.25, None]
    assert math.isnan(by_name["gru"].loss)
    assert [sum(by_name[name].alerts.values()) for name in ("gru", "lstm")] == [2, 0]
    assert named(arranged(found, order="loss")) == ["rnn", "lstm", "bare", "gru"]
    assert named(arranged(found, order="loss", reverse=True)) == ["lstm", "rnn", "bare", "gru"]
    assert named(arranged(found, order="name")) == ["bare", "gru", "lstm", "rnn"]
    assert named(arranged(found, order="alerts"))[0] == "gru"
    assert named(arranged(found, match="CELLS")) == ["gru", "lstm"]
    assert named(arranged(found, status="running")) == ["bare"]
    assert {name: named(runs) for name, runs in sweeps(found).items()} == {
        "": ["bare", "rnn"],
        "cells": ["gru", "lstm"],
    }
    alone = [one for one in found if one.run.name != "gru"]  # of a sweep of one, as `observe` makes them
    assert {name: named(runs) for name, runs in sweeps(alone).items()} == {"": ["bare", "rnn", "lstm"]}
    with pytest.raises(ArgumentError, match="'lost'"):
        arranged(found, order="lost")


def test_a_run_is_renamed_annotated_and_deleted(path):
    with Store(path) as store:
        rename(path, 4, "a new name")
        annotate(path, 4, "what I tried\nin two lines")
        assert (store.run(4).name, store.run(4).notes) == ("a new name", "what I tried\nin two lines")
        annotate(path, 4, "")
        assert (store.run(4).notes, "notes" in store.run(4).facts) == ("", False)
        before = store.series(3, ["train_loss"])["train_loss"].values.tolist()
        with pytest.raises(StoreError, match=r"'a new name' .* is running"):
            delete(path, [1, 4])
        with pytest.raises(StoreError, match="no run with the number 7"):
            delete(path, [1, 7])
        assert len(store.runs()) == 4
        delete(path, [1, 2])
        assert [run.id for run in store.runs()] == [4, 3]
        assert store.alerts(2) == []
        assert store.series(3, ["train_loss"])["train_loss"].values.tolist() == before
    with sqlite3.connect(path) as database:
        ((rows,),) = database.execute("SELECT sum(rows) FROM frames WHERE run < 3")
    assert rows == 0
    with pytest.raises(ArgumentError, match="got ' '"):
        rename(path, 3, " ")


def test_numbers_are_not_given_again(path):
    """A page that is open meanwhile goes on from the last frame it has seen."""
    with sqlite3.connect(path) as database:
        database.execute("UPDATE writers SET status = 'finished'")
    with Store(path) as store:
        assert len(store.overview()) == 4
        delete(path, [3, 4])
        writer = Writer(path, "u5", "next")
        writer.write([Rows("steps", ("time", "loss"), np.array([[1, 0.0, 0.125]]))])
        writer.finish()
        (new, *_) = store.overview()
        assert (new.run.id, new.run.name, new.loss) == (5, "next", 0.125)
        delete(path, [5])
        Writer(path, "u6", "without a step").finish()
        assert [run.id for run in store.runs()] == [6, 2, 1]


def said(capsys, *words):
    code = main(["runs", *map(str, words)])
    out, err = capsys.readouterr()
    return code, out + err


def test_the_command_lists_and_changes_runs(path, capsys, monkeypatch):
    monkeypatch.chdir(path.parent)
    monkeypatch.delenv("COLUMNS", raising=False)
    db = ("--db", path)
    assert ORDERS == overview.ORDERS
    code, text = said(capsys, *db, "--sort", "loss")
    assert code == 0
    lines = text.splitlines()
    assert "cells (2 runs)" in text
    row = {name: next(line for line in lines if f" {name} " in line).split() for name in ("rnn", "gru")}
    assert (row["rnn"][0], row["gru"][0]) == ("3", "2")
    assert "NaN" in row["gru"]
    assert json.loads(said(capsys, *db, "--json", "--match", "gru")[1])[0]["alerts"] == {
        "critical": 1,
        "warning": 1,
    }
    assert said(capsys, "note", "gru", "a try", *db) == (0, "note saved with run 'gru' (number 2)\n")
    assert said(capsys, "rename", "2", "gru, small", *db)[0] == 0
    assert "a try" in said(capsys, *db)[1]
    assert said(capsys, "delete", "gru, small", "1", "--yes", *db)[1] == (
        "deleted 'gru, small' (number 2, 9 steps) and 'lstm' (number 1, 9 steps)\n"
    )
    code, text = said(capsys, "rename", "2", "x", *db)
    assert (code, text) == (2, f"Error: no run '2' in {str(path)!r}. Known: 'bare', 'rnn', '4', '3'.\n")
    assert said(capsys, *db, "--status", "failed")[1] == f"{str(path)!r} has none of these 2 runs\n"


def test_nobody_answers_and_a_long_note(path, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, text = said(capsys, "delete", "4", "--db", path)
    assert (code, text.startswith("Delete ")) == (2, True)
    assert "there is no terminal to confirm deleting 'bare' (number 4" in text
    assert text.endswith(": give --yes\n")
    annotate(path, 4, "long " * 1000)
    assert len(said(capsys, "--db", path)[1].splitlines()) < 40


def test_the_command_changes_no_run_that_may_not_be_meant(path, capsys, monkeypatch):
    def same():
        with Store(path) as store:
            return [(run.id, run.name, run.notes) for run in store.runs()]

    rename(path, 3, "lstm")
    rename(path, 4, "2")
    before = same()
    for change in (("delete", "lstm", "--yes"), ("note", "lstm", "x"), ("rename", "lstm", "x")):
        assert said(capsys, *change, "--db", path) == (
            2,
            "Error: 2 runs are called 'lstm': say which by its number, 3 or 1\n",
        )
    assert said(capsys, "delete", "2", "--yes", "--db", path) == (
        2,
        "Error: '2' is the number of a run and the name of number 4: rename number 4 first\n",
    )
    assert "that is not empty, got ' '" in said(capsys, "rename", "4", " ", "--db", path)[1]
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    code, text = said(capsys, "delete", "3", "--db", path)
    assert code == 1
    assert text.startswith("nothing was deleted\n")
    assert same() == before
    assert said(capsys, "delete", "3", "--yes", "--db", path)[0] == 0
