"""Prints a recommendation: reasons, what other thresholds would have clipped, and the lines to paste."""

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
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
    """Print a recommendation in full."""
    console = plain_console()
    _head(console, run)
    _answer(console, suggestion)
    for each in (_statistics(suggestion), _candidates(suggestion), _typical(suggestion, kind)):
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
    if not suggestion.lines or "role" in run.facts:  # a run of the lab takes --clip itself
        return
    console.print()
    clip = shlex.quote(config.to_string(suggestion.clip))
    tried = f"clipwise observe --clip {clip} -- {_command(run)}"
    console.print(Text.assemble(("# with no change to a script\n", "dim"), tried), soft_wrap=True)


def show_each(suggestions: Mapping[str, Suggestion], run: Run) -> None:
    """Print the recommendations for the sources of one run."""
    console = plain_console()
    _head(console, run)
    for source, suggestion in suggestions.items():
        console.print(Text(f"{printable(run.title(source))}:", style="bold"))
        _answer(console, suggestion)
        console.print()
    names = ", ".join(shlex.quote(source) for source in suggestions)
    console.print(
        Text(f"--source NAME shows the figures of one, and lines to paste: {names}"), soft_wrap=True
    )


def _head(console: Console, run: Run) -> None:
    title = f"run {printable(run.name)} (number {run.id}, {run.status}, {run.steps:,} steps)"
    console.print(Text(title, style="dim"))
    console.print()


def _answer(console: Console, suggestion: Suggestion) -> None:
    console.print(Text(suggestion.headline, style="bold"))
    for reason in suggestion.reasons:
        console.print(bullet(reason))


def _command(run: Run) -> str:
    """The recorded command, where it is what a person would type; else what stands for it."""
    words = shlex.split(run.command or "")
    if len(run.ranks) > 1 or not words or {"-c", "observe"} & set(words):
        return "python train.py"
    python = Path(words[0])
    if python.is_absolute() and shutil.which(python.name) == str(python):
        words[0] = python.name
    return printable(shlex.join(words))


def _statistics(suggestion: Suggestion) -> Table:
    found = suggestion.statistics
    names = ("mean", "median", "90 % below", "95 % below", "99 % below", "largest")
    made = table("Gradient norm before clipping", *names)
    if found.mean is not None:
        values = (found.mean, found.median, found.p90, found.p95, found.p99, found.max)
        made.add_row(*map(number, values))
    return made


def _candidates(suggestion: Suggestion) -> Table:
    made = table("What a threshold would have clipped", "", "threshold", "steps", "share", left=("",))
    for one in suggestion.candidates:
        made.add_row(one.name, number(one.threshold), f"{one.clipped:,}", percent(one.share))
    return made


def _typical(suggestion: Suggestion, kind: str | None) -> Table:
    """With the sources where one kind was asked for; all kinds are a list to look up one in."""
    heading = "Thresholds in common use" + ("" if kind else " (with sources: --kind)")
    columns = ["kind", "bounded", "value", *(["source"] if kind else [])]
    made = table(heading, *columns, left=columns)
    for one in suggestion.typical:
        value = number(one.low) if one.low == one.high else f"{number(one.low)} to {number(one.high)}"
        made.add_row(one.kind, one.what, value, *([one.source] if kind else []))
    return made
