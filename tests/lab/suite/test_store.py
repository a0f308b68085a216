"""The store: a cell is run once, whoever asks, and what was begun and not finished is run again."""

import os
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clipwise import processes
from clipwise.cli.lab_progress import Lines
from clipwise.errors import ArgumentError, ClipwiseError, StoreError
from clipwise.lab.compare.figures import measure
from clipwise.lab.record import RunRecord
from clipwise.lab.suite.catalog import named
from clipwise.lab.suite.cells import Cell, cells
from clipwise.lab.suite.database import where
from clipwise.lab.suite.lease import LEASE, Lease
from clipwise.lab.suite.methods import Variant
from clipwise.lab.suite.postgres import without_password
from clipwise.lab.suite.store import SuiteStore
from clipwise.lab.suite.task import Result, SuiteTask, Trial
from clipwise.lab.suite.work import state_of, work
from tests.depth import thorough
from tests.lab.records import record
from tests.servers import postgresql

__all__ = ["postgresql"]

RESULT = Result(measure(record(held_out=[2.0, 1.5])), ((2, 2.0), (4, 1.5)), Variant(), (1.5,), 3.0)
ABOUT = {"torch": "2", "processor": "one"}


@pytest.fixture
def wanted() -> list[Cell]:
    return cells(named(["temporal-order-50"]), "tiny", methods=["none", "norm-1", "auto"])


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[SuiteStore, SuiteStore]]:
    """Two processes, as far as the file can tell."""
    with SuiteStore(tmp_path / "lab.db") as one, SuiteStore(tmp_path / "lab.db") as other:
        yield one, other


def test_a_claimed_cell_is_nobody_elses_and_a_finished_one_is_done(
    two: tuple[SuiteStore, SuiteStore], wanted: list[Cell]
) -> None:
    one, other = two
    first, second = one.claim(wanted), other.claim(wanted)
    assert (first, second) == (wanted[0], wanted[1])
    assert first is not None
    assert second is not None
    assert set(one.running()) == {first.key, second.key}
    one.finish(first, RESULT, ABOUT)
    other.release(second)
    assert other.claim(wanted) == wanted[1]  # given back, and the first is done
    found = one.finished()
    assert set(found) == {first.key}
    assert found[first.key].result == RESULT
    assert found[first.key].environment == ABOUT


def test_the_time_left_follows_the_usual_cell_and_not_the_one_of_a_busy_machine(
    two: tuple[SuiteStore, SuiteStore], wanted: list[Cell]
) -> None:
    one, _ = two
    many = [replace(cell, seed=seed) for seed in range(3) for cell in wanted]
    for took in (2.0, 2.0, 60.0, 2.0):  # times what the task says
        cell = one.claim(many)
        assert cell is not None
        one.finish(cell, replace(RESULT, seconds=took * cell.seconds), ABOUT)
    running = one.claim(many)
    assert running is not None
    left = sum(cell.seconds for cell in many[4:]) - running.seconds / 2
    state = state_of(one, many, processes=2)
    assert (state.done, state.failed, state.total) == (4, 0, 9)
    assert state.left == pytest.approx(2.0 * left / 2)


def test_a_failed_cell_is_tried_again_by_the_next_call_only(
    two: tuple[SuiteStore, SuiteStore], wanted: list[Cell]
) -> None:
    one, _ = two
    cell = one.claim(wanted)
    assert cell is not None
    one.fail(cell, "no network", ABOUT)
    assert one.finished()[cell.key].error == "no network"
    assert one.claim(wanted, tried=[cell.key]) == wanted[1]
    assert one.claim(wanted) == cell


@pytest.mark.parametrize("elsewhere", ["name", "start"])
def test_what_a_process_that_is_gone_had_begun_is_anyones_at_once_and_of_other_machines_later(
    elsewhere: str, tmp_path: Path, wanted: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()

    def opened() -> SuiteStore:
        return SuiteStore(tmp_path / "lab.db")

    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: gone.pid)
        here = opened()
        if elsewhere == "name":
            patch.setattr(socket, "gethostname", lambda: "another")
        else:  # of the same name, as machines made of one image are
            boot = tmp_path / "boot_id"
            boot.write_text("another start of another kernel\n")
            patch.setattr(processes, "BOOT", boot)
        one = opened()
    other = opened()
    assert here.claim(wanted) == wanted[0]
    assert other.claim(wanted) == wanted[0]
    other.release(wanted[0])
    assert one.claim(wanted) == wanted[0]
    assert other.claim(wanted) == wanted[1]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + LEASE - 1)
    one.renew(wanted[0])
    monkeypatch.setattr(time, "time", lambda: now + LEASE + 1)
    assert wanted[0].key in other.running()  # renewed in time
    monkeypatch.setattr(time, "time", lambda: now + 3 * LEASE)
    assert other.claim(wanted) == wanted[0]
    one.finish(wanted[0], RESULT, ABOUT)  # too late: it is the other's
    assert other.finished() == {}
    other.finish(wanted[0], RESULT, ABOUT)
    assert set(other.finished()) == {wanted[0].key}
    for store in (here, one, other):
        store.close()


def test_many_at_once_claim_each_cell_once(tmp_path: Path, wanted: list[Cell]) -> None:
    many = [replace(cell, seed=seed) for seed in range(10) for cell in wanted]
    claimed: list[Cell] = []

    def take() -> None:
        with SuiteStore(tmp_path / "lab.db") as store:
            while (cell := store.claim(many)) is not None:
                claimed.append(cell)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, claimed)) == sorted(map(str, many))


def test_a_cell_left_by_an_error_is_given_back(
    two: tuple[SuiteStore, SuiteStore], wanted: list[Cell]
) -> None:
    one, other = two
    cell = one.claim(wanted)
    assert cell is not None
    with pytest.raises(KeyboardInterrupt), Lease(one, cell):
        raise KeyboardInterrupt
    assert other.claim(wanted) == cell


def test_ctrl_c_is_not_hidden_by_a_store_that_is_busy(
    two: tuple[SuiteStore, SuiteStore], wanted: list[Cell]
) -> None:
    one, _ = two
    cell = one.claim(wanted)
    assert cell is not None
    one._db.rows("PRAGMA busy_timeout = 10")
    with sqlite3.connect(one.place, isolation_level=None) as busy:
        busy.execute("BEGIN EXCLUSIVE")
        with pytest.raises(KeyboardInterrupt), Lease(one, cell):
            raise KeyboardInterrupt
        busy.execute("ROLLBACK")
    assert cell.key in one.running()  # until its claim runs out


def test_a_claim_that_was_not_renewed_once_is_renewed_the_next_time(
    two: tuple[SuiteStore, SuiteStore], wanted: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    cell = one.claim(wanted)
    assert cell is not None
    tries, again = iter([RuntimeError("the network")]), threading.Event()

    def renew(cell: Cell) -> None:
        for error in tries:
            raise error
        again.set()

    monkeypatch.setattr("clipwise.lab.suite.lease.RENEW", 0.01)
    monkeypatch.setattr(one, "renew", renew)
    with pytest.warns(UserWarning, match="not renewed: RuntimeError: the network"), Lease(one, cell):
        assert again.wait(10.0)


class _Broken(SuiteTask):
    def train(self, trial: Trial) -> RunRecord:
        raise RuntimeError("out of memory")


def test_a_run_that_raises_fails_and_the_others_are_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _Broken(
        name="broken", title="", about="", metric="loss", sizes={"tiny": {}}, seconds={"tiny": 8.0}
    )
    wanted = cells([task], "tiny", methods=["none", "norm-1"], seeds=1)
    with SuiteStore(tmp_path / "lab.db") as store:
        state = work(store, wanted, tmp_path / "runs.db", Lines())
        assert (state.done, state.failed, state.left) == (0, 2, 0.0)
        for found in store.finished().values():
            assert re.fullmatch(r"RuntimeError: out of memory \(test_store.py, line \d+\)", found.error)
        assert state_of(store, wanted).left == 16.0  # a later call tries them again
        assert store.claim([replace(wanted[0], seed=1)]) is not None
        monkeypatch.setattr(os, "getpid", os.getppid)  # another process, which is there
        with SuiteStore(tmp_path / "lab.db") as other:
            assert other.claim([replace(wanted[0], seed=2)]) is not None
            assert len(set(store.running().values())) == 2
        assert state_of(store, wanted).left == 16.0  # what they run is nothing of this


def test_another_setting_is_another_cell(wanted: list[Cell]) -> None:
    cell = wanted[0]
    before = cell.key
    cell.task.revision += 1
    try:
        assert cell.key != before
        assert cell.key.setting != before.setting
    finally:
        cell.task.revision -= 1
    assert replace(cell, seed=1).key.setting == before.setting


def test_what_is_no_store_is_refused_in_one_sentence_and_left_alone(tmp_path: Path) -> None:
    broken, foreign = tmp_path / "a.db", tmp_path / "b.db"
    broken.write_bytes(b"no database at all, but long enough to be looked at " * 20)
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE theirs (a)")
    before = [path.read_bytes() for path in (broken, foreign)]
    for path in (broken, foreign):
        with pytest.raises(StoreError, match=r"is not a store of clipwise lab.*(--out|move)"):
            SuiteStore(path)
    assert [path.read_bytes() for path in (broken, foreign)] == before
    with pytest.raises(StoreError, match="run clipwise lab run first"):
        SuiteStore(tmp_path / "none.db", write=False)
    with pytest.raises(ClipwiseError, match="--out"):
        SuiteStore(tmp_path / "nowhere" / "c.db")


def test_a_damaged_result_is_said(two: tuple[SuiteStore, SuiteStore], wanted: list[Cell]) -> None:
    one, _ = two
    cell = one.claim(wanted)
    assert cell is not None
    one.finish(cell, RESULT, ABOUT)
    one._db.rows("UPDATE cells SET result = '{\"figures\": 1}'")
    with pytest.raises(StoreError, match=r"is damaged.*--out"):
        one.finished()


def test_a_storage_is_a_file_or_a_server_and_its_password_is_never_shown() -> None:
    assert where("sqlite:///some/lab.db") == Path("some/lab.db")
    assert where("sqlite:////some/lab.db") == Path("/some/lab.db")
    address = "postgresql://ann:secret@host/lab"
    assert where(address) == address
    for words in (
        address,
        "postgresql+psycopg://ann:secret@host/lab",
        "postgresql:///lab?password=secret&user=ann",
    ):
        assert "secret" not in without_password(words)
        assert "ann" in without_password(words)
    with pytest.raises(ArgumentError, match=re.escape("got 'mysql://ann:***@host/lab'")):
        where("mysql://ann:secret@host/lab")


@thorough
def test_a_server_does_as_the_file_does(postgresql: str, wanted: list[Cell]) -> None:
    with pytest.raises(StoreError, match="there is no store in 'postgresql://"):
        SuiteStore(postgresql, write=False)
    with pytest.raises(StoreError, match=r"cannot be used .*does not exist.*--storage"):
        SuiteStore(postgresql + "s")
    with SuiteStore(postgresql) as one, SuiteStore(postgresql) as other:
        assert (one.claim(wanted), other.claim(wanted)) == (wanted[0], wanted[1])
        one.finish(wanted[0], RESULT, ABOUT)
        other.fail(wanted[1], "no network", ABOUT)
        assert one.finished() == other.finished()
        assert one.finished()[wanted[0].key].result == RESULT
        assert one.claim(wanted) == wanted[1]
        with pytest.raises(ZeroDivisionError):
            other._transaction(lambda: other._db.rows("UPDATE cells SET error = 'lost'") or 1 / 0)
        # The server ends the connection, as one that starts anew does: the next call makes another.
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        assert other._db.rows(f"{ended} AND backend_type = 'client backend'") == [(True,)]
        assert set(one.running()) == {wanted[1].key}
        assert one.finished()[wanted[0].key].error == ""
        one.release(wanted[1])
    many = [replace(cell, seed=seed) for seed in range(10) for cell in wanted]
    claimed: list[Cell] = []

    def take() -> None:
        with SuiteStore(postgresql) as store:
            while (cell := store.claim(many)) is not None:
                claimed.append(cell)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with SuiteStore(postgresql, write=False) as store:
        assert len(claimed) == len(set(map(str, claimed))) == len(many) - len(store.finished())
