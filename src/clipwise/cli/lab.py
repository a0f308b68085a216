"""``clipwise lab``: the suite of tasks, methods and seeds."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clipwise.cli.source import recording
from clipwise.errors import ArgumentError
from clipwise.wording import counted, duration, number

if TYPE_CHECKING:
    from clipwise.lab.suite.cells import Cell
    from clipwise.lab.suite.store import SuiteStore
    from clipwise.lab.suite.task import Result, SuiteTask
    from clipwise.lab.suite.work import State

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = Path("clipwise-results/lab")
STORE = "lab.db"
INTERRUPTED = 130
MOST_JOBS = 4
COUNT = click.IntRange(min=1)


@click.group()
def lab() -> None:
    """Many tasks, each with every method: where clipping helps, and where it does not.

    Example: clipwise lab all --budget small
    """


def _budget(command: F) -> F:
    return click.option(
        "--budget",
        type=click.Choice(["tiny", "small", "full"]),
        default="small",
        show_default=True,
        help="How much is trained; docs/lab.md says how long that takes.",
    )(command)


def _out(command: F) -> F:
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=FOLDER,
        show_default=True,
        metavar="DIR",
        help="Folder for the store and the report; processes and machines that share it share the work.",
    )(command)


def _running(command: Any) -> Any:
    """The options of what runs cells."""
    options = (
        _budget,
        click.option("--methods", metavar="A,B", help="Only these; clipwise lab list names them."),
        click.option("--seeds", type=COUNT, metavar="N", help="In place of those of the budget."),
        click.option(
            "--jobs",
            type=COUNT,
            metavar="N",
            help=f"Processes.  [default: one a core, at most {MOST_JOBS}]",
        ),
        _out,
        recording("The recording of every run, which clipwise dashboard shows live."),
        click.option("--helper", type=int, hidden=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


@lab.command("list")
@_budget
def list_(budget: str) -> int:
    """Name the tasks and the methods."""
    from clipwise.cli.display import say
    from clipwise.lab.suite.catalog import TASKS
    from clipwise.lab.suite.methods import METHODS

    width = max(map(len, (*TASKS, *METHODS)))
    click.echo("Tasks")
    for task in TASKS.values():
        there = "" if budget in task.sizes else f"  (not with --budget {budget})"
        click.echo(f"  {task.name:<{width}}  {task.title}{there}")
    click.echo("\nMethods")
    for method in METHODS.values():
        click.echo(f"  {method.name:<{width}}  {method.clip or method.label}")
    for task in TASKS.values():
        if task.methods is not METHODS:
            click.echo(f"  {task.name} only with {', '.join(task.methods)}")
    from clipwise.lab.suite.cells import cells

    wanted = cells(TASKS.values(), budget)  # type: ignore[arg-type]
    left = sum(cell.seconds for cell in wanted) / 2
    say(f"--budget {budget}: {counted(len(wanted), 'run')}, about {duration(left)} on two cores")
    return 0


@lab.command("run")
@click.argument("tasks", nargs=-1, required=True, metavar="TASK...")
@_running
def run_(tasks: tuple[str, ...], **options: Any) -> int:
    """Run some tasks.

    The same command goes on where it was stopped or killed. Several at once, also on several machines, share
    the work of one --out.

    Example: clipwise lab run pm25 traffic --budget small --methods none,norm-1,auto
    """
    from clipwise.lab.suite.catalog import named

    return _run(named(tasks), ["run", *tasks], **options)


@lab.command("all")
@_running
def all_(**options: Any) -> int:
    """Run all tasks, as clipwise lab run does."""
    from clipwise.lab.suite.catalog import TASKS

    return _run(list(TASKS.values()), ["all"], **options)


@lab.command("report")
@_budget
@_out
def report_(budget: str, out: Path) -> int:
    """Write what is finished as a page and as Markdown."""
    from clipwise.lab.suite.store import SuiteStore

    with SuiteStore(out / STORE, write=False) as store:
        return _report(store, budget, out)


def _run(
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
        _report(store, budget, out)
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


def _report(store: "SuiteStore", budget: Any, out: Path) -> int:
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
