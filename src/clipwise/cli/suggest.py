"""``clipwise suggest``: which threshold a recorded run asks for, and why."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

    from clipwise.monitor.store import Run
    from clipwise.monitor.suggest import Suggestion

PLAIN_WIDTH = 80
"""Columns in a file or a pipe, where there is no terminal to ask."""

FRAMEWORKS = {
    "pytorch": "PyTorch",
    "keras": "Keras",
    "optax": "optax",
    "lightning": "Lightning",
    "transformers": "Hugging Face Trainer",
}


@click.command()
@click.argument("run", required=False)
@click.option(
    "--db",
    type=click.Path(path_type=Path),
    default=Path("clipwise.db"),
    show_default=True,
    metavar="FILE",
    help="The recording.",
)
@click.option("--kind", metavar="KIND", help="transformer, recurrent, gan, ppo, dqn or vision.")
@click.option("--source", metavar="NAME", help="Whose norms, where several clippers were recorded.")
@click.option("--loss", metavar="NAME", help="The recorded loss, if it is not called loss.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def suggest(
    run: str | None, db: Path, kind: str | None, source: str | None, loss: str | None, as_json: bool
) -> int:
    """Recommend a threshold from the gradient norms of RUN (its name or number; the newest when left out).

    Prints the recommendation with its reasons, what other thresholds would have clipped, and the lines to
    paste.

    Example: clipwise suggest lstm --kind recurrent
    """
    from clipwise.monitor.store import Store
    from clipwise.monitor.suggest import suggest_run

    with Store(db) as store:
        found = store.run(run)
        suggestion = suggest_run(store, found, kind=kind, source=source, loss=loss)
    if as_json:
        about = {"id": found.id, "name": found.name, "status": found.status, "steps": found.steps}
        click.echo(json.dumps({"run": about} | suggestion.to_dict(), indent=2, allow_nan=False))
    else:
        _show(suggestion, found, kind)
    return 0


def _show(suggestion: "Suggestion", run: "Run", kind: str | None) -> None:
    import os

    from rich.console import Console
    from rich.text import Text

    from clipwise.wording import printable

    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    title = f"run {printable(run.name)} (number {run.id}, {run.status}, {run.steps:,} steps)"
    console.print(Text(title, style="dim"))
    console.print()
    console.print(Text(suggestion.headline, style="bold"))
    for reason in suggestion.reasons:
        console.print(_bullet(reason))
    tables = (_statistics(suggestion), _shape(suggestion), _candidates(suggestion))
    for table in (*tables, _typical(suggestion, kind)):
        if table.row_count:
            console.print()
            console.print(table)
    for title, lines in (("Lines to paste", suggestion.lines), ("Without clipwise", suggestion.builtin)):
        if lines:
            console.print()
            console.print(Text(title, style="bold"))
        for name, text in lines.items():
            console.print(Text(f"# {FRAMEWORKS[name]}", style="dim"))
            # Whole lines, whatever the width: what is broken cannot be pasted.
            console.print(Text(text), soft_wrap=True)
    if not suggestion.lines:
        return
    console.print()
    tried = f"clipwise observe --clip {_quoted(suggestion)} -- python train.py"
    console.print(Text.assemble(("# with no change to a script\n", "dim"), tried), soft_wrap=True)


def _quoted(suggestion: "Suggestion") -> str:
    import shlex

    from clipwise import config

    return shlex.quote(config.to_string(suggestion.clip))


def _statistics(suggestion: "Suggestion") -> "Table":
    from clipwise.monitor.wording import number

    found = suggestion.statistics
    table = _table("Gradient norm before clipping", "mean", "median", "p90", "p95", "p99", "max")
    if found.mean is not None:
        values = (found.mean, found.median, found.p90, found.p95, found.p99, found.max)
        table.add_row(*map(number, values))
    return table


def _shape(suggestion: "Suggestion") -> "Table":
    """Tail and drift, of what came before a breakdown."""
    from clipwise.monitor.wording import number

    found = suggestion.statistics
    table = _table("Tail and drift", "p99/median", "Hill's exponent", "last quarter/first", "NaN or Inf", "0")
    if found.tail is not None:
        shown = map(number, (found.tail, found.hill, found.drift))
        table.add_row(*shown, f"{found.nonfinite:,}", f"{found.zeros:,}")
    return table


def _candidates(suggestion: "Suggestion") -> "Table":
    from clipwise.monitor.wording import number, percent

    table = _table("What a threshold would have clipped", "", "threshold", "steps", "share", first="left")
    for one in suggestion.candidates:
        table.add_row(one.name, number(one.threshold), f"{one.clipped:,}", percent(one.share))
    return table


def _typical(suggestion: "Suggestion", kind: str | None) -> "Table":
    """With the sources where one kind was asked for; all kinds are a list to look up one in."""
    from clipwise.monitor.wording import number

    heading = "What others use" + ("" if kind else " (with sources: --kind)")
    columns = ["kind", "bounded", "value", *(["source"] if kind else [])]
    table = _table(heading, *columns, first="left", others="left")
    for one in suggestion.typical:
        value = number(one.low) if one.low == one.high else f"{number(one.low)} to {number(one.high)}"
        table.add_row(one.kind, one.what, value, *([one.source] if kind else []))
    return table


def _table(title: str, *columns: str, first: Any = "right", others: Any = "right") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    for place, name in enumerate(columns):
        table.add_column(Text(name), justify=others if place else first, overflow="fold")
    return table


def _bullet(sentence: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("•", style="dim"), Text(sentence))
    return grid
