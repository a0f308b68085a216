"""One call of ``clipwise lab run``: its processes, its progress output, and the report."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipwise.errors import ArgumentError
from clipwise.processes import end
from clipwise.wording import counted

if TYPE_CHECKING:
    from clipwise.lab.suite.cells import Cell, Key
    from clipwise.lab.suite.store import SuiteStore
    from clipwise.lab.suite.task import SuiteTask
    from clipwise.lab.suite.work import State

__all__ = ["MOST_JOBS", "STORE", "place_of", "run_command", "write_report"]

STORE = "lab.db"
INTERRUPTED = 130
MOST_JOBS = 4


def run_command(
    tasks: "Sequence[SuiteTask]",
    words: list[str],
    *,
    budget: str,
    methods: str | None,
    seeds: int | None,
    jobs: int | None,
    out: Path,
    storage: str | None,
    db: Path,
    helper: int | None,
) -> int:
    from clipwise.cli.display import say
    from clipwise.cli.lab_progress import shown_progress
    from clipwise.lab.report.results import check_folder
    from clipwise.lab.suite.cells import cells
    from clipwise.lab.suite.methods import chosen
    from clipwise.lab.suite.postgres import without_password
    from clipwise.lab.suite.store import SuiteStore
    from clipwise.monitor.store import recordable

    names = methods.split(",") if methods else []
    known: dict[str, Any] = {}
    for task in tasks:
        known |= task.methods
    chosen(known, names)
    wanted = cells(tasks, budget, methods=names, seeds=seeds)  # type: ignore[arg-type]
    if not wanted:
        methods_too = " and supports one of the methods" if names else ""
        raise ArgumentError(
            f"nothing to run: none of these tasks has a size for --budget {budget}{methods_too}"
        )
    place = place_of(storage, out)
    check_folder(out)
    recordable(db)
    if helper is not None:
        return _help(helper, wanted, place, db)
    if storage is None:
        out.mkdir(parents=True, exist_ok=True)
    options = {"--budget": budget, "--methods": methods, "--seeds": seeds, "--out": out, "--storage": storage}
    options["--db"] = db
    words = ["clipwise", "lab", *words]
    words += [word for name, value in options.items() if value is not None for word in (name, str(value))]
    again = shlex.join(without_password(word) for word in words)
    jobs = jobs or min(_cores(), MOST_JOBS)
    from clipwise.lab.suite.work import state_of, work

    with SuiteStore(place) as store:
        out.mkdir(parents=True, exist_ok=True)
        before = state_of(store, wanted, jobs)
        jobs = min(jobs, max(1, before.total - before.done))
        say(f"store: {store.place}; {before.done} of {counted(before.total, 'run')} are already finished")
        others: list[subprocess.Popen[str]] = []
        tried: list[Key] = []
        try:
            with shown_progress(lambda: state_of(store, wanted, jobs, tried)) as progress, _ended(others):
                for _ in range(jobs - 1):
                    others.append(_helper(words, piped=progress.piped))
                    progress.follow(others[-1])
                work(store, wanted, db, progress, processes=jobs, tried=tried)
                for process in others:
                    process.wait()
        except KeyboardInterrupt:
            say(f"Interrupted. To continue: {again}")
            return INTERRUPTED
        done = state_of(store, wanted)
        write_report(store, budget, out)
    return _end(done, [process.returncode for process in others], again)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _helper(words: Sequence[str], *, piped: bool) -> "subprocess.Popen[str]":
    """A further process of this call; what it says comes through a pipe where bars are drawn."""
    command = [sys.executable, "-m", *words, "--helper", str(os.getpid())]
    return subprocess.Popen(command, stderr=subprocess.PIPE if piped else None, text=True, errors="replace")


@contextmanager
def _ended(processes: "Sequence[subprocess.Popen[str]]") -> Iterator[None]:
    """At the end none of them is left: whatever has ended this one is Ctrl-C for them."""
    try:
        yield
    finally:
        end(processes)


def place_of(storage: str | None, out: Path) -> Path | str:
    """Where the store is: what ``--storage`` names, or else a file in ``--out``."""
    from clipwise.lab.suite.database import where

    return out / STORE if storage is None else where(storage)


def _help(parent: int, wanted: "Sequence[Cell]", place: Path | str, db: Path) -> int:
    """A further process of the same call: it takes part until there is nothing left, or the call is gone."""
    from clipwise.cli.lab_progress import Lines
    from clipwise.lab.suite.store import SuiteStore
    from clipwise.lab.suite.work import work

    with SuiteStore(place) as store:
        try:
            work(store, wanted, db, Lines(), processes=2, stop=lambda: os.getppid() != parent)
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def _end(state: "State", codes: Sequence[int], again: str) -> int:
    from clipwise.cli.display import say

    broken = [code for code in codes if code]
    if broken and state.done < state.total:
        say(f"A process of this call ended with code {broken[0]}; to run what it left unfinished: {again}")
        return 1
    if state.failed:
        say(f"{counted(state.failed, 'run')} failed, for reasons given in the report; to try again: {again}")
        return 1
    if state.done < state.total:
        rest = state.total - state.done
        are = "is" if rest == 1 else "are"
        say(
            f"{counted(rest, 'run')} {are} running in other processes; clipwise lab report shows what is done"
        )
    return 0


def write_report(store: "SuiteStore", budget: Any, out: Path) -> int:
    """Write a report of everything that the store holds for a budget, from this and earlier calls."""
    from clipwise.files import save
    from clipwise.lab.suite.catalog import TASKS
    from clipwise.lab.suite.cells import cells
    from clipwise.lab.suite.page import Report
    from clipwise.lab.suite.standings import boards

    finished = store.finished()
    found = boards(TASKS.values(), budget, finished)
    if not found:
        raise ArgumentError(
            f"no run is finished with --budget {budget} in {store.place!r}: start one with"
            f" clipwise lab all --budget {budget}"
        )
    here: list[Mapping[str, str]] = []
    keys = {key for key in finished if key.budget == budget}
    for key in keys:
        if finished[key].environment not in here:
            here.append(finished[key].environment)
    wanted = cells(TASKS.values(), budget)
    done = sum(cell.key in keys and finished[cell.key].result is not None for cell in wanted)
    there = [board.task.name for board in found]
    absent = [name for name, task in TASKS.items() if budget in task.sizes and name not in there]
    names = "run " + " ".join(there) if absent else "all"
    out.mkdir(parents=True, exist_ok=True)
    page = Report(budget, found, here, done, len(wanted), absent, f"clipwise lab {names} --budget {budget}")
    for suffix, content in (("html", page.html()), ("md", page.markdown())):
        save(out / f"lab-{budget}.{suffix}", content, force=True)
        click.echo(out / f"lab-{budget}.{suffix}")
    return 0
