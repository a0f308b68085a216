"""One call of ``clipwise lab run``: its processes, what it says on the way, and the report."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipwise.errors import ArgumentError
from clipwise.wording import counted, duration, number

if TYPE_CHECKING:
    from clipwise.lab.suite.cells import Cell
    from clipwise.lab.suite.store import SuiteStore
    from clipwise.lab.suite.task import Result, SuiteTask
    from clipwise.lab.suite.work import State

__all__ = ["MOST_JOBS", "STORE", "Lines", "run_command", "write_report"]

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
    db: Path,
    helper: int | None,
) -> int:
    from clipwise.cli.display import say
    from clipwise.lab.report.results import check_folder
    from clipwise.lab.suite.cells import cells
    from clipwise.lab.suite.methods import chosen
    from clipwise.lab.suite.store import SuiteStore
    from clipwise.monitor.store import recordable

    names = methods.split(",") if methods else []
    known: dict[str, Any] = {}
    for task in tasks:
        known |= task.methods
    chosen(known, names)
    wanted = cells(tasks, budget, methods=names, seeds=seeds)  # type: ignore[arg-type]
    if not wanted:
        raise ArgumentError(f"nothing to run: none of these tasks has a size for --budget {budget}")
    check_folder(out)
    recordable(db)
    out.mkdir(parents=True, exist_ok=True)
    options = {"--budget": budget, "--methods": methods, "--seeds": seeds, "--out": out, "--db": db}
    words = ["clipwise", "lab", *words]
    words += [word for name, value in options.items() if value is not None for word in (name, str(value))]
    if helper is not None:
        return _help(helper, wanted, out, db)
    jobs = jobs or min(_cores(), MOST_JOBS)
    from clipwise.lab.suite.work import state_of, work

    with SuiteStore(out / STORE) as store:
        before = state_of(store, wanted, jobs)
        jobs = min(jobs, max(1, before.total - before.done))
        say(f"store: {out / STORE}; {before.done} of {counted(before.total, 'run')} are there already")
        others = [
            subprocess.Popen([sys.executable, "-m", *words, "--helper", str(os.getpid())])
            for _ in range(jobs - 1)
        ]
        try:
            work(store, wanted, db, Lines(), processes=jobs)
            for process in others:
                process.wait()
        except KeyboardInterrupt:
            say(f"Interrupted. To go on: {shlex.join(words)}")
            return INTERRUPTED
        finally:
            for process in others:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                process.wait()
        done = state_of(store, wanted)
        write_report(store, budget, out)
    return _end(done, [process.returncode for process in others], words)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _help(parent: int, wanted: "Sequence[Cell]", out: Path, db: Path) -> int:
    """A further process of the same call: it takes part until there is nothing left, or the call is gone."""
    from clipwise.lab.suite.store import SuiteStore
    from clipwise.lab.suite.work import work

    with SuiteStore(out / STORE) as store:
        try:
            work(store, wanted, db, Lines(), processes=2, stop=lambda: os.getppid() != parent)
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def _end(state: "State", codes: Sequence[int], words: Sequence[str]) -> int:
    from clipwise.cli.display import say

    broken = [code for code in codes if code]
    if broken and state.done < state.total:
        say(
            f"A process of this call ended with {broken[0]}; what it had begun is run by: {shlex.join(words)}"
        )
        return 1
    if state.failed:
        say(f"{counted(state.failed, 'run')} failed, as the report says; to try again: {shlex.join(words)}")
        return 1
    if state.done < state.total:
        rest = counted(state.total - state.done, "run")
        say(f"{rest} are with other processes; clipwise lab report shows them when they are done")
    return 0


def write_report(store: "SuiteStore", budget: Any, out: Path) -> int:
    """Write everything that the store holds of a budget, whatever this call was about."""
    from clipwise.files import save
    from clipwise.lab.suite.catalog import TASKS
    from clipwise.lab.suite.cells import cells
    from clipwise.lab.suite.page import Report
    from clipwise.lab.suite.standings import boards

    finished = store.finished()
    found = boards(TASKS.values(), budget, finished)
    if not found:
        raise ArgumentError(
            f"nothing is finished with --budget {budget} in {str(out)!r}: clipwise lab all --budget {budget}"
            " runs it"
        )
    here: list[Mapping[str, str]] = []
    keys = {key for key in finished if key.budget == budget}
    for key in keys:
        if finished[key].environment not in here:
            here.append(finished[key].environment)
    missing = sum(cell.key not in keys for cell in cells([board.task for board in found], budget))
    every = sum(budget in task.sizes for task in TASKS.values())
    names = "all" if len(found) == every else "run " + " ".join(board.task.name for board in found)
    page = Report(budget, found, here, missing, f"clipwise lab {names} --budget {budget}")
    for suffix, content in (("html", page.html()), ("md", page.markdown())):
        save(out / f"lab-{budget}.{suffix}", content, force=True)
        click.echo(out / f"lab-{budget}.{suffix}")
    return 0


class Lines:
    """One line a finished cell, with the time left."""

    def begin(self, cell: "Cell", state: "State") -> Any:
        return None

    def end(self, cell: "Cell", result: "Result | None", error: str, state: "State") -> None:
        from clipwise.cli.display import say

        said = f"failed: {error}" if result is None else f"{_outcome(result)} ({duration(result.seconds)})"
        left = f"; about {duration(state.left)} left" if state.left else ""
        say(f"[{state.done + state.failed}/{state.total}] {cell}: {said}{left}")


def _outcome(result: "Result") -> str:
    from clipwise.lab.compare.wording import value_of

    figures = result.figures
    if figures.diverged:
        return "diverged"
    reached = figures.steps_to_target
    solved = "" if reached is None else f", {number(figures.target)} reached at step {reached}"
    return value_of(figures.metric, figures.final) + solved
