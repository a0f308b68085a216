"""The file: what is written is what is read, whatever the numbers are; files of others are left alone."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from clipwise import processes
from clipwise.errors import StoreError
from clipwise.monitor.store import Alert, Rows, Store, Writer, moments_of, recordable
from clipwise.monitor.store._schema import APPLICATION, VERSION

ODD = [[1.0, 0.1], [2.0, math.nan], [3.0, math.inf], [4.0, -math.inf], [5.0, -0.0], [6.0, 5e-324]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a 100% odd?name#.db"


def rows(*names, data, kind="steps"):
    return Rows(kind, names, np.asarray(data, dtype=np.float64))


def test_every_number_comes_back_to_the_bit(path):
    writer = Writer(path, "u", "first", clip="clip_by_norm(1.0)", facts={"seed": 3}, command="python t.py")
    writer.write([rows("loss", data=ODD[:4])])
    writer.write([rows("loss", data=ODD[4:]), rows("other", data=[[6, 1.5]])])
    writer.finish()
    with Store(path) as store:
        run = store.run()
        found = store.series(run.id, ["loss", "other", "none"])
        assert (run.name, run.status, run.steps, run.ranks) == ("first", "finished", 6, (0,))
        assert (run.clip, run.facts, run.command) == ("clip_by_norm(1.0)", {"seed": 3}, "python t.py")
        assert store.names(run.id) == ["loss", "other"]
    assert set(found) == {"loss", "other"}
    assert found["loss"].steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert found["loss"].values.tobytes() == np.asarray(ODD)[:, 1].tobytes()
    ((bad,),) = sqlite3.connect(path).execute("SELECT sum(nonfinite) FROM frames")
    assert bad == 3


def test_only_what_is_new(path):
    writer = Writer(path, "u", "run")
    writer.write([rows("loss", data=[[1, 1.0]])])
    with Store(path) as store:
        first = store.series(1, ["loss"])
        before = store.version()
        writer.write([rows("loss", data=[[2, 2.0], [3, 3.0]])])
        assert store.version() != before
        again = store.series(1, ["loss"], after=first.last)
        assert again["loss"].values.tolist() == [2.0, 3.0]
        assert store.series(1, ["loss"], after=again.last) == {}
    writer.finish()


def test_layers_that_come_and_go(path):
    writer = Writer(path, "u", "run")
    writer.write([rows("a", "b", data=[[10, 1.0, math.nan]], kind="layers")])
    writer.write([rows("b", "c", data=[[20, 2.0, 3.0]], kind="layers")])
    writer.finish()
    with Store(path) as store:
        found = store.layers(1)
    assert found.names == ("a", "b", "c")
    np.testing.assert_array_equal(found.norms, [[1.0, math.nan, math.nan], [math.nan, 2.0, 3.0]])
    np.testing.assert_array_equal(found.absent, [[False, False, True], [True, False, False]])


def test_processes_of_one_run_and_alerts(path):
    alert = Alert("loss_nonfinite", "critical", 7, "It is.", "It matters.", "Try.", rank=1, time=2.0)
    for rank in (1, 0):
        writer = Writer(path, "same", "run", rank)
        writer.write([rows("loss", data=[[1, float(rank)]])], [alert] if rank else [])
        writer.finish("failed" if rank else "finished", "ValueError: x" if rank else "")
    with Store(path) as store:
        (run,) = store.runs()
        assert (run.ranks, run.status, run.note) == ((0, 1), "failed", "ValueError: x")
        assert store.series(run.id, ["loss"])["loss"].values.tolist() == [0.0]
        assert store.series(run.id, ["loss"], rank=1)["loss"].values.tolist() == [1.0]
        assert store.alerts(run.id) == [alert]


def test_runs_are_found_by_name_and_number(path):
    for uid, name in (("u", "one"), ("v", "2"), ("w", "one")):
        Writer(path, uid, name).finish()
    with Store(path) as store:
        assert [run.id for run in store.runs()] == [3, 2, 1]
        assert [store.run(which).id for which in (None, "one", 1, "2")] == [3, 3, 1, 2]
        with pytest.raises(StoreError, match=r"no run 'on' in .* Did you mean 'one'"):
            store.run("on")


def test_a_process_that_was_killed_is_lost_and_what_it_wrote_is_there(path):
    code = (
        "import os, signal, sys, numpy as np; from clipwise.monitor.store import *\n"
        f"w = Writer({str(path)!r}, 'u', 'killed')\n"
        "w.write([Rows('steps', ('loss',), np.array([[1, 2.0]]))])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with Store(path) as store:
        run = store.run("killed")
        assert run.status == "lost"
        assert store.series(run.id, ["loss"])["loss"].values.tolist() == [2.0]
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_process_of_another_machine_of_this_name_is_not_looked_for_here(path, monkeypatch):
    """Machines made of one image have one name: a number that is free here may be in use there."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    boot = path.parent / "boot_id"
    boot.write_text("another start of another kernel\n")
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: gone.pid)
        patch.setattr(processes, "BOOT", boot)
        Writer(path, "u", "elsewhere").close()
    with Store(path) as store:
        for ago, status in ((30, "running"), (90, "lost")):
            with sqlite3.connect(path) as database:
                database.execute("UPDATE writers SET seen = ?", (time.time() - ago,))
            assert store.run().status == status


def test_a_process_of_another_that_has_its_number_is_not_it(path):
    """In containers every process is number 1: being there is not enough, it must have been heard of."""
    writer = Writer(path, "u", "here")
    with Store(path) as store:
        assert store.run().status == "running"
        for ago, status in ((300, "running"), (30 * 86_400, "lost")):
            with sqlite3.connect(path) as database:
                database.execute("UPDATE writers SET seen = ?", (time.time() - ago,))
            assert store.run().status == status
    writer.close()


def test_what_runs_hold_is_looked_at_once(path):
    writers = [Writer(path, uid, uid) for uid in "uv"]
    writers[0].write([rows("b", data=[[9, 1.0]]), rows("x", data=[[40, 1.0]], kind="layers")])
    with Store(path) as store:
        assert (store.names(1), store.names(2)) == (["b"], [])
        assert [run.steps for run in store.runs()] == [0, 40]
        writers[1].write([rows("c", data=[[7, 1.0]])])
        writers[0].write([rows("a", "b", data=[[12, 1.0, 1.0]])])
        assert (store.names(1), store.names(2)) == (["b", "a"], ["c"])
        assert [run.steps for run in store.runs()] == [7, 40]
        asked = []
        store._db.set_trace_callback(asked.append)
        store.runs()
        store.names(1)
        frames = [one for one in asked if "FROM frames" in one]
        assert frames
        assert all("id > 4" in one for one in frames)
    for writer in writers:
        writer.finish()


def test_only_the_layers_that_are_new(path):
    writer = Writer(path, "u", "run")
    with Store(path) as store:
        assert store.layers(1).last == 0
        writer.write([rows("a", data=[[10, 1.0]], kind="layers")])
        first = store.layers(1)
        assert store.layers(1, after=first.last).last == first.last
        writer.write([rows("loss", data=[[20, 1.0]]), rows("b", data=[[20, 2.0]], kind="layers")])
        again = store.layers(1, after=first.last)
        assert (again.names, again.steps.tolist(), again.norms.tolist()) == (("b",), [20], [[2.0]])
    writer.finish()


def test_a_finished_recording_is_read_in_a_folder_that_cannot_be_written(path, monkeypatch):
    writer = Writer(path, "u", "run")
    writer.write([rows("loss", data=[[1, 2.0]])])
    access = os.access
    denied = lambda which, mode: which != path.parent and access(which, mode)  # noqa: E731
    monkeypatch.setattr(os, "access", denied)
    with Store(path) as store:  # while it is written, as ever
        writer.write([rows("loss", data=[[2, 3.0]])])
        assert store.run().steps == 2
    writer.finish()
    with Store(path) as store:
        assert store.series(1, ["loss"])["loss"].values.tolist() == [2.0, 3.0]
        assert [one.name for one in path.parent.iterdir()] == [path.name]  # nothing was made beside it


def test_the_journal_lets_readers_read(path):
    writer = Writer(path, "u", "run")
    assert sqlite3.connect(path).execute("PRAGMA journal_mode").fetchone() == ("wal",)
    writer.finish()


def test_files_of_others_are_left_alone(tmp_path):
    text = tmp_path / "notes.txt"
    text.write_bytes(b"no database at all, but long enough to be looked at as if it were one" * 20)
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as theirs:
        theirs.execute("CREATE TABLE runs (id)")
    newer, older = tmp_path / "newer.db", tmp_path / "older.db"
    for file, version in ((newer, VERSION + 1), (older, VERSION - 1)):
        with sqlite3.connect(file) as made:
            made.execute(f"PRAGMA application_id = {APPLICATION}")
            made.execute(f"PRAGMA user_version = {version}")
    for file, said in (
        (text, "is not a recording"),
        (other, "is not a recording of"),
        (newer, f"newer clipwise .version {VERSION + 1} of the file, this one reads {VERSION}.: upgrade"),
        (older, f"older clipwise .version {VERSION - 1} of the file, this one reads {VERSION}.: record into"),
    ):
        before = file.read_bytes()
        for use in (Store, lambda path: Writer(path, "u", "run")):
            with pytest.raises(StoreError, match=said):
                use(file)
        assert file.read_bytes() == before
    with pytest.raises(StoreError, match="there is no recording"):
        Store(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_a_damaged_frame_is_said(path):
    writer = Writer(path, "u", "run")
    writer.write([rows("loss", data=[[1, 1.0]])])
    writer.finish()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE frames SET data = x'00112233'")
    with Store(path) as store, pytest.raises(StoreError, match="damaged: a frame of 4 bytes for 2 columns"):
        store.series(1, ["loss"])


@pytest.mark.parametrize("facts", ["{", "[1]", "{" * 2000, b"\xff"])
def test_facts_that_are_none_do_not_keep_a_run_from_being_read(path, facts):
    Writer(path, "u", "run", facts={"seed": 3}).finish()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE runs SET facts = ?", (facts,))
    with Store(path) as store:
        assert (store.run().name, store.run().facts) == ("run", {})


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS id FROM n"

# As it stands in a file, whether or not this SQLite has the module.
VIRTUAL = """PRAGMA writable_schema = ON;
INSERT INTO sqlite_master VALUES
    ('table', 'alerts', 'alerts', 0, 'CREATE VIRTUAL TABLE alerts USING fts5(run)')"""


def read(path):
    with Store(path) as store:
        return store.overview(), store.series(1, ["loss"])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (f"ALTER TABLE runs RENAME TO r; CREATE VIEW runs AS {ENDLESS}", "the view 'runs'"),
        ("CREATE TRIGGER t AFTER UPDATE ON writers BEGIN DELETE FROM runs; END", "the trigger 't'"),
        (f"DROP TABLE alerts; {VIRTUAL}", "the virtual table 'alerts'"),
        ("UPDATE layouts SET names = '{}'", "is damaged"),
        ("UPDATE frames SET data = 'text'", "is damaged"),
        ("UPDATE frames SET last_step = 'two'", "is damaged"),
        ("UPDATE writers SET seen = 'late', status = 'running'", "is damaged"),
    ],
)
def test_only_tables_are_read_and_damage_is_a_sentence(path, damage, said):
    writer = Writer(path, "u", "run")
    writer.write([rows("loss", data=[[1, 0.5]])])
    writer.finish()
    with sqlite3.connect(path) as database:
        database.executescript(damage)
    with pytest.raises(StoreError, match=said):
        read(path)


def test_a_link_to_itself_is_no_place_for_a_recording(tmp_path):
    link = tmp_path / "a.db"
    link.symlink_to(link)
    with pytest.raises(StoreError, match="symbolic links"):
        recordable(link)
    with pytest.raises(StoreError, match="is no file"):
        recordable(os.devnull)
    (tmp_path / "b.db").symlink_to(tmp_path / "nowhere" / "b.db")
    with pytest.raises(StoreError, match=r"there is no folder .*nowhere"):
        recordable(tmp_path / "b.db")


def test_a_write_is_all_or_nothing(path):
    writer = Writer(path, "u", "run")
    broken = Rows("steps", ("a",), np.asarray([["x", "y"]]))
    with pytest.raises(ValueError, match="could not convert"):
        writer.write([rows("loss", data=[[1, 1.0]]), broken])
    writer.write([rows("loss", data=[[2, 2.0]])])
    writer.finish()
    with Store(path) as store:
        assert store.series(1, ["loss", "a"])["loss"].values.tolist() == [2.0]
    names = [json.loads(n) for (n,) in sqlite3.connect(path).execute("SELECT names FROM layouts")]
    assert names == [["loss"]]


def test_a_process_that_opens_the_file_again_is_one_process(path):
    Writer(path, "u", "run").close()  # as after a write that failed
    Writer(path, "u", "run").finish()
    with Store(path) as store:
        assert store.run().status == "finished"


def test_values_norms_and_alerts_have_a_source(path):
    alert = Alert("spike", "warning", 4, "A spike.", "It.", "Clip.", source="critic")
    writer = Writer(path, "u", "run")
    tables = [
        Rows(kind, names, np.asarray([[1.0, value]]), source)
        for source, value in (("critic", 1.5), ("", 2.5), ("gan/critic", 3.5))
        for kind, names in (("steps", ("clipwise/norm",)), ("layers", ("w",)))
    ]
    writer.write([*tables, rows("loss", data=[[1, 9.0]])], [alert])
    writer.finish()
    with Store(path) as store:
        assert store.sources(1) == store.clippers(1) == ["critic", "", "gan/critic"]
        assert (store.names(1), store.names(1, "critic")) == (["clipwise/norm", "loss"], ["clipwise/norm"])
        for source, value in (("critic", 1.5), ("", 2.5), ("gan/critic", 3.5)):
            assert store.series(1, ["clipwise/norm"], source)["clipwise/norm"].values.tolist() == [value]
            assert store.layers(1, source).norms.tolist() == [[value]]
            assert store.parameters(1, source) == ["w"]
        assert store.series(1, ["clipwise/norm"], "nobody") == {}
        assert store.names(1, "nobody") == []
        assert store.alerts(1) == [alert]


def test_steps_are_read_in_order_a_part_at_a_time(path, monkeypatch):
    """Frames that overlap, come late or hold steps that were taken again, read in small parts and at once."""
    rng = np.random.default_rng(0)
    writer = Writer(path, "u", "run", rank=2)
    for low, high in ((0, 40), (20, 60), (60, 90), (50, 120), (5, 7), (119, 200)):
        for source, kind, name in (
            ("", "steps", "a"),
            ("", "steps", "b"),
            ("c", "steps", "a"),
            ("c", "layers", "w"),
        ):
            numbers = np.arange(low, high)[rng.random(high - low) < 0.7]
            writer.write([Rows(kind, (name,), np.column_stack([numbers, rng.random(len(numbers))]), source)])
    writer.finish()
    frames = [
        (kind, source, name, step, value)
        for kind, source, names, data in sqlite3.connect(path).execute(
            "SELECT kind, source, names, data FROM frames JOIN layouts ON layouts.id = layout"
            " ORDER BY frames.id"
        )
        for name in json.loads(names)
        for step, value in np.frombuffer(data).reshape(-1, 2).tolist()
    ]
    with Store(path) as store:
        whole = list(store.moments(1))
        monkeypatch.setattr("clipwise.monitor.store.reader.AT_ONCE", 16)
        assert list(store.moments(1)) == whole
    assert [one.step for one in whole] == sorted(one.step for one in whole)
    assert {one.rank for one in whole} == {2}
    for kind, source, name in {one[:3] for one in frames}:
        expected = sorted((f[3:] for f in frames if f[:3] == (kind, source, name)), key=lambda one: one[0])
        which = "values" if kind == "steps" else "layers"
        mine = [(m.step, getattr(m, which)) for m in whole if m.source == source]
        assert [(step, found[name]) for step, found in mine if name in found] == expected


def test_an_idle_process_says_now_and_then_that_it_is_there(path, monkeypatch):
    """Each time readers look again, so not at each turn."""
    now = [1000.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    writer = Writer(path, "u", "run")
    with Store(path) as store:
        seen, versions = [], set()
        for now[0] in (1001.0, 1009.0, 1010.0, 1019.0, 1021.0):
            writer.write()
            seen.append(store.run().seen)
            versions.add(store.version())
        assert seen == [1000.0, 1000.0, 1010.0, 1010.0, 1021.0]
        assert len(versions) == 3
        now[0] = 1022.0
        writer.write([rows("loss", data=[[1, 1.0]])])
        assert store.run().seen == 1022.0
    writer.finish()


def test_what_comes_again_of_a_step_is_paired_in_its_order():
    """As after going back to a checkpoint within one flush: clip, log and norms lie in tables each."""
    tables = [
        rows("time", "clipwise/norm", data=[[5, 50.0, 1.0], [5, 60.0, 2.0], [6, 61.0, 3.0]]),
        rows("w", data=[[5, 0.1], [5, 0.2]], kind="layers"),
        rows("time", "loss", data=[[5, 51.0, 7.0], [5, 62.0, 8.0], [5, 63.0, 9.0]]),
        rows("time", "loss", "acc", data=[[5, 64.0, 10.0, 0.5]]),
    ]
    found = [(m.step, m.values, m.layers, m.time) for m in moments_of(tables)]
    assert found == [
        (5, {"clipwise/norm": 1.0, "loss": 7.0}, {"w": 0.1}, 50.0),
        (5, {"clipwise/norm": 2.0, "loss": 8.0}, {"w": 0.2}, 60.0),
        (5, {"loss": 9.0}, {}, 63.0),
        (5, {"loss": 10.0, "acc": 0.5}, {}, 64.0),
        (6, {"clipwise/norm": 3.0}, {}, 61.0),
    ]
