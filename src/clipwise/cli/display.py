"""Terminal output: a progress bar per run, then tables, verdict and paths.

Progress is written to stderr and results to stdout. If stderr is not a terminal, each run is one plain line.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich import progress as bars
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from clipwise.lab.compare import runs as compare
from clipwise.lab.compare.verdict import headline, verdict
from clipwise.lab.compare.wording import value_of
from clipwise.lab.record import Progress, RunRecord
from clipwise.lab.report.results import Results
from clipwise.lab.report.table import rich_table, sheets
from clipwise.wording import duration, number, percent

__all__ = ["Silent", "preparing", "say", "show", "watcher"]

PLAIN_WIDTH = 110
"""Columns of the tables in a file or a pipe, where there is no terminal to ask."""

NARROW = 140
"""Below this width only the first table shows the range over the seeds."""


def say(sentence: str) -> None:
    """Write one sentence to stderr."""
    Console(stderr=True, highlight=False).print(Text(sentence), soft_wrap=True)


@contextmanager
def preparing() -> Iterator[None]:
    """A spinner while the data is downloaded and read, which takes a while the first time."""
    with Console(stderr=True).status("preparing the data"):
        yield


@contextmanager
def watcher(*, seeds: bool = True) -> Iterator[compare.Watcher]:
    """Bars on a terminal, plain lines elsewhere; with ``seeds`` the names of runs include the seed."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Lines(console, seeds)
        return
    with _progress(console) as progress:
        yield Bars(progress, seeds)


def _progress(console: Console) -> bars.Progress:
    """The columns that fit the width: below 80 characters there is no bar."""
    wide = console.width >= 110
    columns = [
        bars.TextColumn("{task.fields[name]}", table_column=_column(max_width=36 if wide else 24)),
        *([bars.BarColumn(bar_width=18 if wide else 8)] if console.width >= 80 else []),
        bars.MofNCompleteColumn(),
        bars.TextColumn("[cyan]{task.fields[figures]}", table_column=_column()),
        bars.TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    ]
    return bars.Progress(*columns, console=console, refresh_per_second=8)


def _column(max_width: int | None = None) -> Column:
    return Column(no_wrap=True, max_width=max_width, overflow="ellipsis")


class Bars:
    """One progress bar per run: loss, norm, threshold, clip fraction, time left."""

    def __init__(self, progress: bars.Progress, seeds: bool) -> None:
        self.progress = progress
        self.seeds = seeds
        self.task: bars.TaskID | None = None

    def begin(self, job: compare.Job, index: int, count: int) -> Progress:
        name = f"{index}/{count} {_name(job, self.seeds)}"
        task = self.task = self.progress.add_task(name, total=None, name=name, figures="preparing")
        fractions: list[float] = []

        def update(step: int, total: int, figures: Mapping[str, float]) -> None:
            # A global norm is clipped or not: one step says 0 % or 100 %, their mean how often it happens.
            fractions.append(figures.get("clip_fraction", math.nan))
            shown = {**figures, "clip_fraction": sum(fractions) / len(fractions)}
            self.progress.update(task, completed=step, total=total, figures=_figures(shown))

        return update

    def end(self, record: RunRecord) -> None:
        if self.task is not None:
            steps = len(record.steps["loss"])
            text = _end(record)
            self.progress.update(self.task, completed=steps, total=steps, figures=text)
            self.progress.stop_task(self.task)


class Lines:
    """One plain line per run, when it has ended."""

    def __init__(self, console: Console, seeds: bool) -> None:
        self.console = console
        self.seeds = seeds
        self.name = ""

    def begin(self, job: compare.Job, index: int, count: int) -> Progress:
        self.name = f"[{index}/{count}] {_name(job, self.seeds)}"
        return lambda step, total, figures: None

    def end(self, record: RunRecord) -> None:
        line = f"{self.name}: {_end(record)}, {len(record.steps['loss'])} steps in {duration(record.seconds)}"
        self.console.print(Text(line), soft_wrap=True)


class Silent:
    """No output, for all but one of several processes."""

    def begin(self, job: compare.Job, index: int, count: int) -> Progress:
        return lambda step, total, figures: None

    def end(self, record: RunRecord) -> None:
        pass


def _name(job: compare.Job, seeds: bool) -> str:
    return f"{job.label}, seed {job.seed}" if seeds else job.label


def _figures(values: Mapping[str, float]) -> str:
    """``loss 1.71  norm 2.4  threshold 0.1  clipped 98 %``; what is unknown or infinite is left out."""
    parts = [f"{name} {number(values[name], 3)}" for name in ("loss", "norm") if name in values]
    if math.isfinite(values.get("threshold", math.inf)):
        parts.append(f"threshold {number(values['threshold'], 3)}")
        parts.append(f"clipped {percent(values.get('clip_fraction', math.nan))}")
    return "  ".join(parts)


def _end(record: RunRecord) -> str:
    if record.interrupted:
        return "interrupted"
    value = record.final.get(record.metric, math.nan)
    loss = record.steps["loss"][-1] if record.steps["loss"] else math.nan
    if not math.isfinite(value) or not math.isfinite(loss):
        return "diverged"
    return value_of(record.metric, value)


def show(results: Results, folder: Path, recording: Path) -> None:
    """Write tables, verdict, paths and a command to try next to stdout."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    groups = results.groups()
    console.print()
    for index, sheet in enumerate(sheets(groups, target=results.the_target())):
        console.print(rich_table(sheet, width=console.width, ranges=index == 0 or console.width >= NARROW))
        console.print()
    console.print(Text(headline(groups), style="bold"))
    for sentence in verdict(groups):
        console.print(_bullet(sentence))
    console.print()
    paths = [("picture", "png"), ("page", "html"), ("figures", "json"), ("one row a run", "csv")]
    for name, suffix in paths:
        _line(console, name, str(folder / f"{results.name}.{suffix}"))
    for name in ("model.pt", "steps.csv"):
        if (folder / name).exists():
            _line(console, "weights" if name == "model.pt" else "one row a step", str(folder / name))
    _line(console, "recording", str(recording))
    console.print()
    _line(console, "try next", results.next_command())


def _bullet(sentence: str) -> Table:
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text("•", style="dim"), Text(sentence))
    return grid


def _line(console: Console, name: str, text: str) -> None:
    console.print(Text.assemble((f"{name:<15}", "dim"), text), soft_wrap=True)
