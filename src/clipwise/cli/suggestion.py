"""A recommended threshold as people read it: why, what others would have clipped, and the lines to paste."""

import shlex

from rich.table import Table
from rich.text import Text

from clipwise import config
from clipwise.cli.table import bullet, plain_console, table
from clipwise.monitor.store import Run
from clipwise.monitor.suggest import Suggestion
from clipwise.monitor.wording import number, percent
from clipwise.wording import printable

FRAMEWORKS = {
    "pytorch": "PyTorch",
    "keras": "Keras",
    "optax": "optax",
    "lightning": "Lightning",
    "transformers": "Hugging Face Trainer",
}


def show(suggestion: Suggestion, run: Run, kind: str | None) -> None:
    """Print a recommendation with all that belongs to it."""
    console = plain_console()
    title = f"run {printable(run.name)} (number {run.id}, {run.status}, {run.steps:,} steps)"
    console.print(Text(title, style="dim"))
    console.print()
    console.print(Text(suggestion.headline, style="bold"))
    for reason in suggestion.reasons:
        console.print(bullet(reason))
    tables = (_statistics(suggestion), _shape(suggestion), _candidates(suggestion))
    for each in (*tables, _typical(suggestion, kind)):
        if each.row_count:
            console.print()
            console.print(each)
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


def _quoted(suggestion: Suggestion) -> str:
    return shlex.quote(config.to_string(suggestion.clip))


def _statistics(suggestion: Suggestion) -> Table:
    found = suggestion.statistics
    made = table("Gradient norm before clipping", "mean", "median", "p90", "p95", "p99", "max")
    if found.mean is not None:
        values = (found.mean, found.median, found.p90, found.p95, found.p99, found.max)
        made.add_row(*map(number, values))
    return made


def _shape(suggestion: Suggestion) -> Table:
    """Tail and drift, of what came before a breakdown."""
    found = suggestion.statistics
    made = table("Tail and drift", "p99/median", "Hill's exponent", "last quarter/first", "NaN or Inf", "0")
    if found.tail is not None:
        shown = map(number, (found.tail, found.hill, found.drift))
        made.add_row(*shown, f"{found.nonfinite:,}", f"{found.zeros:,}")
    return made


def _candidates(suggestion: Suggestion) -> Table:
    made = table("What a threshold would have clipped", "", "threshold", "steps", "share", left=("",))
    for one in suggestion.candidates:
        made.add_row(one.name, number(one.threshold), f"{one.clipped:,}", percent(one.share))
    return made


def _typical(suggestion: Suggestion, kind: str | None) -> Table:
    """With the sources where one kind was asked for; all kinds are a list to look up one in."""
    heading = "What others use" + ("" if kind else " (with sources: --kind)")
    columns = ["kind", "bounded", "value", *(["source"] if kind else [])]
    made = table(heading, *columns, left=columns)
    for one in suggestion.typical:
        value = number(one.low) if one.low == one.high else f"{number(one.low)} to {number(one.high)}"
        made.add_row(one.kind, one.what, value, *([one.source] if kind else []))
    return made
