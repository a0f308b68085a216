"""``clipwise lab``: the suite of tasks, methods and seeds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from clipwise.cli.lab_session import MOST_JOBS, place_of, run_command, write_report
from clipwise.cli.source import recording
from clipwise.wording import counted, duration

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = Path("clipwise-results/lab")
COUNT = click.IntRange(min=1)


@click.group()
def lab() -> None:
    """Train many tasks with every method: where clipping helps, and where it does not.

    Example: clipwise lab all --budget small
    """


def _budget(command: F) -> F:
    return click.option(
        "--budget",
        type=click.Choice(["tiny", "small", "full"]),
        default="small",
        show_default=True,
        help="How much is trained; see docs/lab.md for the time that it takes.",
    )(command)


def _out(command: F) -> F:
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=FOLDER,
        show_default=True,
        metavar="DIR",
        help="Folder for the store and the report; processes that use the same folder share the work.",
    )(command)


def _storage(command: F) -> F:
    return click.option(
        "--storage", metavar="URL", help="The store: sqlite:///..., postgresql://...  [default: in --out]"
    )(command)


def _running(command: Any) -> Any:
    """Add the options of the commands that run cells."""
    options = (
        _budget,
        click.option("--methods", metavar="A,B", help="Only these methods; clipwise lab list shows them."),
        click.option("--seeds", type=COUNT, metavar="N", help="Number of seeds, instead of the budget's."),
        click.option(
            "--jobs",
            type=COUNT,
            metavar="N",
            help=f"Number of processes.  [default: one per core, at most {MOST_JOBS}]",
        ),
        _out,
        _storage,
        recording("The recording of all runs; clipwise dashboard shows it live."),
        click.option("--helper", type=int, hidden=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


@lab.command("list")
@_budget
def list_(budget: str) -> int:
    """List the tasks and the methods."""
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
        more = [name for name in task.methods if name not in METHODS]
        if not METHODS.keys() <= task.methods.keys():
            click.echo(f"  {task.name} only with {', '.join(task.methods)}")
        elif more:
            click.echo(f"  {task.name} also with {', '.join(more)}")
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

    After an interruption the same command continues. Several processes, also on several machines, share the
    work if they use the same --out or --storage.

    Example: clipwise lab run pm25 traffic --budget small --methods none,norm-1,auto
    """
    from clipwise.lab.suite.catalog import named

    return run_command(named(tasks), ["run", *tasks], **options)


@lab.command("all")
@_running
def all_(**options: Any) -> int:
    """Run all tasks; options as for clipwise lab run."""
    from clipwise.lab.suite.catalog import TASKS

    return run_command(list(TASKS.values()), ["all"], **options)


@lab.command("report")
@_budget
@_out
@_storage
def report_(budget: str, out: Path, storage: str | None) -> int:
    """Write the report of all finished runs as a page and as Markdown."""
    from clipwise.lab.suite.store import SuiteStore

    with SuiteStore(place_of(storage, out), write=False) as store:
        return write_report(store, budget, out)
