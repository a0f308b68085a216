"""Changes to recorded runs: names, notes, deletion."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor.store._schema import ENDING, open_database, patiently
from clipwise.monitor.store.plain import text
from clipwise.monitor.store.reader import Store

__all__ = ["annotate", "delete", "rename"]

GONE = "deleted"
"""The kind of the empty frame that is left of a run: numbers of runs and frames are never given again, so
that a page which is open meanwhile takes nothing for something else."""


def rename(path: str | os.PathLike[str], run: int, name: str) -> None:
    """Rename a run, which may be running.

    Raises:
        ArgumentError: the name is empty or not a string.
        StoreError: the run does not exist, or the file cannot be written.
    """
    if not isinstance(name, str) or not name.strip():
        raise ArgumentError(f"the name of a run must be a string that is not empty, got {name!r}")
    with _changing(path, [run]) as database:
        database.execute("UPDATE runs SET name = ? WHERE id = ?", (text(name), run))


def annotate(path: str | os.PathLike[str], run: int, notes: str) -> None:
    """Store a text with a run, `Run.notes`, which replaces the previous one; "" removes it.

    Raises:
        ArgumentError: the text is not a string.
        StoreError: the run does not exist, or the file cannot be written.
    """
    if not isinstance(notes, str):
        raise ArgumentError(f"notes must be a string, got {notes!r}")
    with _changing(path, [run]) as database:
        ((kept,),) = database.execute("SELECT facts FROM runs WHERE id = ?", (run,)).fetchall()
        facts = json.loads(kept)
        facts.pop("notes", None)
        if notes:
            facts["notes"] = text(notes)
        database.execute("UPDATE runs SET facts = ? WHERE id = ?", (json.dumps(facts), run))


def delete(path: str | os.PathLike[str], runs: Iterable[int]) -> None:
    """Delete runs and all their data from a recording; either all of them or none.

    Raises:
        StoreError: a run does not exist or is running, or the file cannot be written.
    """
    wanted = list(dict.fromkeys(runs))
    with Store(path) as store:
        running = [run for run in store.runs() if run.id in wanted and run.status == "running"]
    if running:
        raise StoreError(f"run {running[0].name!r} (number {running[0].id}) is running: end it first")
    with _changing(path, wanted) as database:
        for run in wanted:
            (last,) = database.execute("SELECT max(id) FROM frames WHERE run = ?", (run,)).fetchone()
            database.execute("DELETE FROM frames WHERE run = ? AND id IS NOT ?", (run, last))
            _leave_empty(database, run, last)
            for table in ("alerts", "writers"):
                database.execute(f"DELETE FROM {table} WHERE run = ?", (run,))
            database.execute("DELETE FROM runs WHERE id = ?", (run,))
    # The room is used again by the next steps; the file gets smaller only if nobody else is in the way.
    with contextlib.suppress(sqlite3.Error), closing(open_database(path, write=True)) as database:
        database.execute("VACUUM")


def _leave_empty(database: sqlite3.Connection, run: int, last: int | None) -> None:
    if last is None:
        layout = database.execute("SELECT min(id) FROM layouts").fetchone()[0] or 0
        database.execute(
            "INSERT INTO frames"
            " (run, rank, kind, source, layout, first_step, last_step, rows, nonfinite, data)"
            " VALUES (?, 0, ?, '', ?, 0, 0, 0, 0, x'')",
            (run, GONE, layout),
        )
        return
    database.execute(
        "UPDATE frames SET kind = ?, source = '', first_step = 0, last_step = 0, rows = 0, nonfinite = 0,"
        " data = x'' WHERE id = ?",
        (GONE, last),
    )


@contextmanager
def _changing(path: str | os.PathLike[str], runs: Iterable[int]) -> Iterator[sqlite3.Connection]:
    """One transaction, once all these runs are known to be there."""
    if not Path(path).is_file():
        raise StoreError(f"there is no recording {str(path)!r}")
    try:
        with closing(open_database(path, write=True)) as database:
            patiently(lambda: database.execute("BEGIN IMMEDIATE"), ENDING)
            try:
                known = {row[0] for row in database.execute("SELECT id FROM runs")}
                for run in runs:
                    if run not in known:
                        raise StoreError(f"there is no run with the number {run} in {str(path)!r}")
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{str(path)!r} cannot be written: {error}") from error
