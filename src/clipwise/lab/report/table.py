"""The figures as tables: in the terminal, as CSV, and as rows that the page shows.

Three tables of about five columns each fit a terminal of 80 characters and a telephone: what came out, what
the gradients were, and what the training loss did.
"""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from rich import box
from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from clipwise.lab.compare.figures import Figures
from clipwise.lab.compare.groups import Group, Spread, baseline_of, best_of
from clipwise.lab.compare.wording import duration, metric_name, number, percent

__all__ = ["Cell", "Sheet", "csv_text", "rich_table", "sheets"]


@dataclass(frozen=True)
class Cell:
    """One entry; ``mood`` is ``"best"``, ``"bad"``, ``"quiet"`` or empty, ``range`` that over the seeds."""

    text: str
    mood: str = ""
    range: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table without a look: rows of cells, the first column the label of the clip."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


Show = Callable[[float], str]


def sheets(groups: Sequence[Group], *, target: float | None = None) -> list[Sheet]:
    """All three tables; over several seeds a cell holds the median and the range."""
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
            _cell(each, "norm_max", number),
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


def rich_table(sheet: Sheet, *, ranges: bool = True) -> Table:
    """One sheet for the terminal; without ``ranges`` only the medians, which is narrower."""
    table = Table(
        title=sheet.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )
    ranges = ranges and any(cell.range for row in sheet.rows for cell in row)
    widest = min(max((len(row[0].text) for row in sheet.rows), default=4), 16 if ranges else 24)
    for index, name in enumerate(sheet.header):
        side: JustifyMethod = "right" if index else "left"
        table.add_column(Text(name), justify=side, overflow="fold", min_width=0 if index else widest)
    for row in sheet.rows:
        table.add_row(*(_styled(cell, ranges) for cell in row))
    return table


def _styled(cell: Cell, ranges: bool) -> Text:
    text = Text(cell.text, style=STYLES[cell.mood])
    return text.append(f"\n{cell.range}", style="dim") if ranges and cell.range else text


def csv_text(groups: Sequence[Group]) -> str:
    """One row a run with every figure, unrounded; an empty cell where a figure is undefined."""
    runs = [run for each in groups for run in each.runs]
    held_out = sorted({name for run in runs for name in run.held_out})
    names = [f.name for f in fields(Figures) if f.name != "held_out"]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*names, *(f"held_out_{name}" for name in held_out)])
    for run in runs:
        row = [getattr(run, name) for name in names] + [run.held_out.get(name) for name in held_out]
        writer.writerow(["" if value is None else value for value in row])
    return out.getvalue()
