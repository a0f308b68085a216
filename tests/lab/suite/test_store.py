"""The store: a cell is run once, whoever asks, and what was begun and not finished is run again."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clipwise.errors import ClipwiseError, StoreError
from clipwise.lab.compare.figures import measure
from clipwise.lab.suite import store as module
from clipwise.lab.suite.catalog import named
from clipwise.lab.suite.cells import Cell, cells
from clipwise.lab.suite.lease import LEASE, Lease, machine
from clipwise.lab.suite.methods import Variant
from clipwise.lab.suite.store import SuiteStore
from clipwise.lab.suite.task import Result
from tests.lab.records import record

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


def test_what_a_process_that_is_gone_had_begun_is_anyones_at_once_and_of_other_machines_later(
    two: tuple[SuiteStore, SuiteStore], wanted: list[Cell], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    one._mine = (one.owner, machine(), gone.pid)
    assert one.claim(wanted) == wanted[0]
    assert other.claim(wanted) == wanted[0]
    other.release(wanted[0])
    one._mine = (one.owner, "another machine", gone.pid)
    assert one.claim(wanted) == wanted[0]
    assert other.claim(wanted) == wanted[1]
    now = module.time.time()
    monkeypatch.setattr(module.time, "time", lambda: now + LEASE - 1)
    one.renew(wanted[0])
    monkeypatch.setattr(module.time, "time", lambda: now + LEASE + 1)
    assert wanted[0].key in other.running()  # renewed in time
    monkeypatch.setattr(module.time, "time", lambda: now + 3 * LEASE)
    assert other.claim(wanted) == wanted[0]
    one.finish(wanted[0], RESULT, ABOUT)  # too late: it is the other's
    assert other.finished() == {}
    other.finish(wanted[0], RESULT, ABOUT)
    assert set(other.finished()) == {wanted[0].key}


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
        with pytest.raises(StoreError, match=r"is no store of clipwise lab.*(--out|move)"):
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
    one._db.execute("UPDATE cells SET result = '{\"figures\": 1}'")
    with pytest.raises(StoreError, match=r"is damaged.*--out"):
        one.finished()
