"""``clipwise runs``: list, rename, annotate and delete the runs of a recording."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clipwise.cli.source import recording
from clipwise.wording import counted, join, number, printable

if TYPE_CHECKING:
    from rich.table import Table

    from clipwise.monitor.store import Overview, Run
    from clipwise.monitor.suggest.multiples import Multiple

ORDERS = ("started", "name", "loss", "steps", "alerts")
STATUSES = ("running", "finished", "diverged", "stopped", "failed", "lost")
WIDTH = 120
"""Columns in a file or a pipe."""

MOST = 50
"""Runs that are listed unless more are asked for."""

NOTED = 100
"""Characters of a note that the list shows; ``--json`` has all."""


@click.group(invoke_without_command=True)
@click.option("--sort", type=click.Choice(ORDERS), default="started", show_default=True, help="Sort by this.")
@click.option("--reverse", is_flag=True, help="Reverse the order.")
@click.option(
    "--match", default="", metavar="TEXT", help="Only runs with TEXT in name, clip, notes or sweep."
)
@click.option("--status", type=click.Choice(STATUSES), help="Only runs with this status.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=MOST, show_default=True, help="Number of runs; 0: all."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@recording()
@click.pass_context
def runs(
    context: click.Context,
    sort: str,
    reverse: bool,
    match: str,
    status: str | None,
    limit: int,
    as_json: bool,
    db: Path,
) -> int | None:
    """List the runs of a recording, grouped by sweep. Subcommands rename, delete and annotate runs.

    Example: clipwise runs --sort loss --match lstm
    """
    if context.invoked_subcommand is not None:
        return None
    from clipwise.monitor.store import Store, arranged, sweeps
    from clipwise.monitor.suggest.multiples import Multiples

    with Store(db) as store:
        there, multiples = store.overview(), Multiples().among(store)
    found = arranged(there, order=sort, reverse=reverse, match=match, status=status)
    shown = found[:limit] if limit else found
    if as_json:
        click.echo(
            json.dumps([_plain(one, multiples.get(one.run.id)) for one in shown], indent=2, allow_nan=False)
        )
        return 0
    if not found:
        click.echo(f"{str(db)!r} has {f'none of these {len(there):,} runs' if there else 'no run yet'}")
        return 0
    from clipwise.cli.table import plain_console

    console = plain_console(WIDTH)
    for sweep, group in sweeps(shown).items():
        title = f"{printable(sweep)} ({counted(len(group), 'run')})" if sweep else ""
        console.print(_table(title, group, multiples))
    if len(shown) < len(found):
        click.echo(f"{len(found) - len(shown):,} more: --limit 0 lists all")
    return 0


@runs.command("rename")
@click.argument("run")
@click.argument("name")
@recording()
def rename_(run: str, name: str, db: Path) -> int:
    """Rename RUN (its name or number) to NAME.

    Example: clipwise runs rename 3 'lstm, lower learning rate'
    """
    from clipwise.monitor.store import rename

    (found,) = _found(db, [run])
    rename(db, found.id, name)
    click.echo(f"run {found.id} is now called {name!r}")
    return 0


@runs.command()
@click.argument("run")
@click.argument("text")
@recording()
def note(run: str, text: str, db: Path) -> int:
    """Store TEXT as the note of RUN (its name or number), in place of the previous note; '' removes it.

    Example: clipwise runs note lstm 'the data of March was missing'
    """
    from clipwise.monitor.store import annotate

    (found,) = _found(db, [run])
    annotate(db, found.id, text)
    click.echo(f"note saved with run {found.name!r} (number {found.id})")
    return 0


@runs.command()
@click.argument("run", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@recording()
def delete(run: Sequence[str], yes: bool, db: Path) -> int:
    """Delete each RUN (its name or number) and all its data from the recording.

    Example: clipwise runs delete 3 4
    """
    from clipwise.errors import ArgumentError
    from clipwise.monitor.store import delete as delete_runs

    found = _found(db, run)
    named = join([f"{each.name!r} (number {each.id}, {counted(each.steps, 'step')})" for each in found])
    try:
        sure = yes or click.confirm(f"Delete {named}?", err=True)
    except click.Abort:
        if sys.stdin.isatty():
            raise
        raise ArgumentError(f"there is no terminal to confirm deleting {named}: give --yes") from None
    if not sure:
        click.echo("nothing was deleted")
        return 1
    delete_runs(db, [each.id for each in found])
    click.echo(f"deleted {named}")
    return 0


def _found(db: Path, which: Sequence[str]) -> "list[Run]":
    """Each of them once. What is about to be changed must be the only one that can be meant."""
    from clipwise.errors import StoreError
    from clipwise.monitor.store import Store

    with Store(db) as store:
        runs = store.runs()
        for each in which:
            called = [str(run.id) for run in runs if run.name == each]
            if len(called) > 1:
                raise StoreError(
                    f"{len(called)} runs are called {each!r}: say which by its number, {join(called, 'or')}"
                )
            if called and called != [each] and any(str(run.id) == each for run in runs):
                raise StoreError(
                    f"{each!r} is the number of a run and the name of number {called[0]}:"
                    f" rename number {called[0]} first"
                )
        return list({found.id: found for found in map(store.run, which)}.values())


def _plain(one: "Overview", multiple: "Multiple | None") -> dict[str, Any]:
    from clipwise.monitor.store.plain import plain

    run = one.run
    found = {
        "id": run.id,
        "name": run.name,
        "status": run.status,
        "started": run.started,
        "steps": run.steps,
        "loss": one.loss,
        "clip": run.clip,
        "alerts": dict(one.alerts),
        "sweep": run.sweep,
        "notes": run.notes,
        "multiple": None if multiple is None else str(multiple),
    }
    return {key: plain(value) for key, value in found.items()}


def _table(title: str, group: "Sequence[Overview]", multiples: "Mapping[int, Multiple]") -> "Table":
    from datetime import datetime

    from clipwise.cli.table import table

    noted = any(one.run.notes for one in group)
    several = any(one.run.id in multiples for one in group)  # gradients that another run has a part of
    names = ["number", "run", "started", "status", "steps", "last loss", "alerts", "clip"]
    names += ["gradients"] * several + ["notes"] * noted
    found = table(title, *names, left=("run", "started", "status", "clip", "gradients", "notes"))
    for one in group:
        run = one.run
        row = [
            str(run.id),
            printable(run.name),
            f"{datetime.fromtimestamp(run.started):%Y-%m-%d %H:%M}",
            run.status,
            f"{run.steps:,}",
            number(one.loss),
            f"{sum(one.alerts.values()):,}",
            printable(run.clip or "–"),
        ]
        note = run.notes if len(run.notes) <= NOTED else f"{run.notes[: NOTED - 1]}…"
        times = multiples[run.id].short if run.id in multiples else ""
        found.add_row(*row, *[times] * several, *[printable(note)] * noted)
    return found
