"""``clipwise export``: export a recorded run to another tool."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from clipwise.cli.source import recording
from clipwise.errors import ArgumentError
from clipwise.monitor.exporters import TOOLS, Option
from clipwise.wording import counted

EVERY = 10.0
"""Seconds between two lines about how far it is."""


def _flags() -> dict[str, dict[str, Option]]:
    """The options of all exporters: by flag, what each makes of it."""
    found: dict[str, dict[str, Option]] = {}
    for name, tool in TOOLS.items():
        for flag, option in tool.options.items():
            found.setdefault(flag, {})[name] = option
    return found


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command an option for each flag, whose help says what it means for whom."""
    for flag, each in reversed(_flags().items()):
        by_help: dict[str, list[str]] = {}
        for name, option in each.items():
            by_help.setdefault(option.help, []).append(name)
        said = "; ".join(f"{', '.join(names)}: {text}" for text, names in by_help.items())
        first = next(iter(each.values()))
        is_flag = first.choices is not None
        metavar = None if is_flag else first.metavar
        command = click.option(flag, is_flag=is_flag, metavar=metavar, help=f"{said}.")(command)
    return command


@click.command()
@click.argument("run", required=False)
@click.option("--to", required=True, type=click.Choice(tuple(TOOLS)), help="The tool or file format.")
@_options
@recording()
def export(run: str | None, to: str, db: Path, **given: Any) -> int:
    """Export a recorded RUN (its name or number; by default the newest) to another tool.

    All values are exported with their steps and times, with the norms of the parameters and the alerts.
    Nothing leaves the machine, unless WANDB_MODE or MLFLOW_TRACKING_URI says so.

    Example: clipwise export lstm --to tensorboard --out runs
    """
    from clipwise.monitor.exporters import export as write
    from clipwise.monitor.store import Store

    arguments = _arguments(to, {f"--{name}": value for name, value in given.items()})
    try:
        with Store(db) as store, _progress() as progress:
            exporter = TOOLS[to](**arguments)
            done = write(store, run, exporter, progress=progress)
    except OSError as error:
        raise ArgumentError(f"the export cannot be written: {error}") from error
    parts = [counted(done.steps, "step"), f"{done.series} series"]
    parts += [f"norms of {counted(done.parameters, 'parameter')}"] if done.parameters else []
    parts += [counted(done.alerts, "alert")] if done.alerts else []
    click.echo(f"run {done.run.name!r}: {', '.join(parts)}")
    click.echo(f"in {done.place}")
    if exporter.hint():
        click.echo(f"next: {exporter.hint()}")
    return 0


def _arguments(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """What the exporter's class is given; refuses what it has no use for."""
    tool, found = TOOLS[name], {}
    for flag, each in _flags().items():
        value, option = given[flag], tool.options.get(flag)
        if option is not None and option.choices is not None:
            found[option.parameter] = option.choices[bool(value)]
        elif option is not None and value is not None:
            found[option.parameter] = value
        elif option is None and value:
            *rest, last = each
            whom = f"{', '.join(rest)} and {last}" if rest else last
            why = tool.lacks.get(flag, f"is for {whom}, not for {{}}").format(name)
            raise ArgumentError(f"{flag} {why}")
    return found


@contextmanager
def _progress() -> Iterator[Callable[[float], object]]:
    """How far it is: a bar on a terminal, elsewhere a line now and then."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("export", total=1.0)
        yield lambda share: progress.update(task, completed=share)


def _lines() -> Callable[[float], object]:
    said = time.monotonic()

    def tell(share: float) -> None:
        nonlocal said
        if time.monotonic() - said >= EVERY:
            said = time.monotonic()
            click.echo(f"{share:.0%} is exported", err=True)

    return tell
