"""The figures as tables: for the terminal, as CSV, and as rows for the page.

Three tables of about five columns each fit a terminal of 80 characters and a phone: the results, the
gradients, and the training loss.
"""

import csv
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from clipwise.lab.compare.figures import Figures
from clipwise.lab.compare.groups import Group, Spread, baseline_of, best_of
from clipwise.lab.compare.wording import metric_name
from clipwise.wording import duration, number, percent

__all__ = ["Cell", "Sheet", "csv_text", "rich_table", "sheets"]


@dataclass(frozen=True)
class Cell:
    """One entry; ``mood`` is ``"best"``, ``"bad"``, ``"quiet"`` or empty; ``range`` is over the seeds."""

    text: str
    mood: str = ""
    range: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table without formatting: rows of cells, with the label of the clip in the first column."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


Show = Callable[[float], str]


def sheets(groups: Sequence[Group], *, target: float | None = None) -> list[Sheet]:
    """All three tables; with several seeds a cell holds the median and the range."""
    return [_outcome(groups, target), _gradients(groups), _loss(groups)]


def _outcome(groups: Sequence[Group], target: float | None) -> Sheet:
    baseline, best = baseline_of(groups), best_of(groups)
    name = metric_name(groups[0].metric) if groups else "metric"
    header = ["clip", name, "vs. none", "best"]
    if target is not None:
        header.append(f"reached {number(target)}")
    rows = []
    for each in groups:
        row = [
            Cell(each.label),
            _final(each, best),
            _versus(each, baseline),
            _best(each),
        ]
        if target is not None:
            row.append(_reached(each))
        rows.append(tuple(row))
    return Sheet("On held-out data", tuple(header), tuple(rows))


def _gradients(groups: Sequence[Group]) -> Sheet:
    header = ("clip", "median", "p95", "largest", "threshold", "clipped")
    none = Cell("–", "quiet")
    rows = tuple(
        (
            Cell(each.label),
            _cell(each, "norm_median", number),
            _cell(each, "norm_p95", number),
            _largest(each),
            none if each.role == "baseline" else _cell(each, "threshold", number),
            none if each.role == "baseline" else _clipped(each),
        )
        for each in groups
    )
    return Sheet("Gradient norm before clipping", header, rows)


def _loss(groups: Sequence[Group]) -> Sheet:
    header = ("clip", "final", "spikes", "NaN/Inf", "roughness", "steps", "time")
    rows = tuple(
        (
            Cell(each.label),
            _cell(each, "final_loss", number),
            _of(each.spread("spikes"), number),
            _of(each.spread("nonfinite_steps"), number, "bad" if each.spread("nonfinite_steps").high else ""),
            _cell(each, "roughness", lambda value: number(value, 2)),
            _of(each.spread("steps"), number),
            _cell(each, "seconds", duration),
        )
        for each in groups
    )
    return Sheet("Training loss", header, rows)


def _of(spread: Spread, show: Show, mood: str = "") -> Cell:
    """The median, and the range where there is one."""
    low, high = show(spread.low), show(spread.high)
    return Cell(show(spread.median), mood, "" if low == high else f"{low} – {high}")


def _cell(group: Group, name: str, show: Show) -> Cell:
    spread = group.spread(name)
    if math.isinf(spread.median):
        return Cell("NaN", "bad") if group.diverged else Cell("–", "quiet")
    return _of(spread, show)


def _largest(group: Group) -> Cell:
    """Of all seeds together, as the sentences say it."""
    high = group.spread("norm_max").high
    if math.isinf(high):
        return Cell("NaN", "bad") if group.diverged else Cell("–", "quiet")
    return Cell(number(high))


def _final(group: Group, best: Group | None) -> Cell:
    if group.interrupted:
        return Cell("interrupted", "quiet")
    final = group.final
    bad, runs = len(group.diverged), len(group.runs)
    if 2 * bad >= runs:
        return Cell("diverged", "bad", "" if bad == runs else f"{bad} of {runs} seeds")
    if bad:
        return Cell(number(final.median), "bad", f"{bad} of {runs} diverged")
    if not math.isfinite(final.median):
        return Cell("–", "quiet")
    return _of(final, number, "best" if group is best else "")


def _versus(group: Group, baseline: Group | None) -> Cell:
    reduction = group.reduction(baseline)
    if reduction is None:
        return Cell("–", "quiet")
    if abs(reduction) < 0.05:
        return Cell("0.0 %")
    text = f"{-reduction:+.1f} %" if abs(reduction) < 1000 else f"{number(1 - reduction / 100, 3)} x"
    return Cell(text, "bad" if reduction < -1 else "")


def _best(group: Group) -> Cell:
    if len(group.runs) > 1:
        spread = Spread.of((run.best for run in group.runs), missing=group.worst)
        return _of(spread, number) if math.isfinite(spread.median) else Cell("–", "quiet")
    run = group.first
    return Cell("–", "quiet") if run.best_step is None else Cell(f"{number(run.best)} at {run.best_step}")


def _reached(group: Group) -> Cell:
    """Step and seconds of the first evaluation at the target, or how many of the seeds ever got there."""
    steps, seconds = group.spread("steps_to_target"), group.spread("seconds_to_target")
    if math.isinf(steps.low):
        return Cell("–" if group.interrupted else "never", "quiet")
    if math.isinf(steps.high):
        return Cell(
            f"{sum(run.steps_to_target is not None for run in group.runs)} of {len(group.runs)} seeds"
        )
    text = f"step {steps.median:.0f}, {duration(seconds.median)}"
    return Cell(text, "", "" if steps.low == steps.high else f"{number(steps.low)} – {number(steps.high)}")


def _clipped(group: Group) -> Cell:
    """The share of steps; where a step clips only some of its groups, the mean share of those too."""
    steps, fraction = group.spread("clipped_steps"), group.spread("clip_fraction")
    if math.isinf(steps.median):
        return Cell("–", "quiet")
    if abs(steps.median - fraction.median) > 0.005:
        return Cell(f"{percent(steps.median)} ({percent(fraction.median)} of groups)")
    return _of(steps, percent)


STYLES = {"best": "bold green", "bad": "red", "quiet": "dim", "": ""}


GAP = 2
"""Characters between two columns in the terminal: a space and the box's invisible line."""


def rich_table(sheet: Sheet, *, width: int, ranges: bool = True) -> Table:
    """One sheet for a terminal of ``width`` characters; without ``ranges`` only the medians.

    If it is too wide, labels are folded and cells are wrapped at spaces: nothing is cut off.
    """
    table = Table(
        title=sheet.title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    rows = [[_styled(cell, ranges) for cell in row] for row in sheet.rows]
    columns = [[name, *(row[i].plain for row in rows)] for i, name in enumerate(sheet.header)]
    for index, (name, room) in enumerate(zip(sheet.header, _widths(columns, width), strict=True)):
        side: JustifyMethod = "right" if index else "left"
        table.add_column(Text(name), justify=side, overflow="fold", width=room)
    for row in rows:
        table.add_row(*row)
    return table


def _widths(columns: Sequence[Sequence[str]], width: int) -> list[int]:
    """What each column gets: the widest give way first, down to whole values, then to words, then further."""
    widths = [_longest(r"\n", column) for column in columns]
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    for label, pieces in ((12, r"\n|, | (?=\()"), (8, r"\s"), (1, "")):
        floors = [label, *(_longest(pieces, column) if pieces else 1 for column in columns[1:])]
        while excess > 0:
            slack = [i for i, floor in enumerate(floors) if widths[i] > floor]
            if not slack:
                break
            widths[max(slack, key=lambda i: widths[i])] -= 1
            excess -= 1
    return widths


def _longest(separator: str, texts: Sequence[str]) -> int:
    return max(len(piece) for text in texts for piece in re.split(separator, text))


def _styled(cell: Cell, ranges: bool) -> Text:
    text = Text(cell.text, style=STYLES[cell.mood])
    return text.append(f"\n{cell.range}", style="dim") if ranges and cell.range else text


def csv_text(groups: Sequence[Group]) -> str:
    """One row per run with every figure, not rounded; an empty cell for an undefined figure."""
    runs = [run for each in groups for run in each.runs]
    held_out = sorted({name for run in runs for name in run.held_out})
    names = [f.name for f in fields(Figures) if f.name not in ("held_out", "multiple")]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *(f"held_out_{name}" for name in held_out)])
    for run in runs:
        row = [getattr(run, name) for name in names] + [run.held_out.get(name) for name in held_out]
        writer.writerow(["" if value is None else value for value in row])
    return out.getvalue()
