"""The tables of the report: one over all tasks, one for each."""

import math
from collections.abc import Sequence

from clipwise.lab.compare.groups import Spread
from clipwise.lab.compare.wording import metric_name
from clipwise.lab.report.table import Cell, Sheet
from clipwise.lab.suite.standings import CLOSE, Board, Row, Tally
from clipwise.wording import duration, number, percent

__all__ = ["board_sheet", "markdown", "tally_sheet"]

NONE = Cell("–", "quiet")


def tally_sheet(lines: Sequence[Tally]) -> Sheet:
    """Over all tasks, against the best of the fixed thresholds on each."""
    close = f"within {percent(CLOSE)}"
    header = ("method", "tasks", close, "better", "diverged", "furthest behind", "on")
    rows = []
    for one in lines:
        fall, task = one.worst
        rows.append(
            (
                Cell(one.method.label),
                Cell(str(one.tasks)),
                Cell(str(one.close), "best" if one.close == one.tasks else ""),
                Cell(str(one.better)),
                Cell(str(one.diverged), "bad" if one.diverged else ""),
                Cell(_fall(fall), "bad" if fall > CLOSE else ""),
                Cell(task, "quiet") if fall > 0 else NONE,
            )
        )
    return Sheet("Against the best fixed threshold of each task", header, tuple(rows))


def board_sheet(board: Board) -> Sheet:
    """One task: median and range over the seeds."""
    metric = metric_name(board.task.metric)
    goal = board.task.goal
    header = ["method", metric, *(["vs. best fixed"] if board.has_fixed else [])]
    header += [f"reached {number(goal)}"] if goal is not None else []
    header += ["clipped", "largest norm", "left out", "time"]
    best, fixed = board.best(), board.best("fixed")
    rows = []
    for row in board.rows:
        line = [Cell(row.method.label), _final(row, best)]
        if board.has_fixed:
            line.append(_versus(board, row, fixed))
        if goal is not None:
            line.append(_reached(row))
        rows.append((*line, _clipped(row), _largest(row), _skipped(row), _time(row)))
    return Sheet(_seeds(board), tuple(header), tuple(rows))


def _seeds(board: Board) -> str:
    counts = {len(row.results) for row in board.rows}
    if counts == {1}:
        return "One seed"
    return f"Median of {counts.pop()} seeds" if len(counts) == 1 else "Median of the seeds that are there"


def _final(row: Row, best: Row | None) -> Cell:
    group = row.group
    bad, all_ = len(group.diverged), len(row.results)
    if row.diverged:
        return Cell("diverged", "bad", f"{bad} of {all_} seeds" if 0 < bad < all_ else "")
    text = number(group.final.median) + _variant(row)
    return Cell(text, "best" if row is best else "", _range(group.final))


def _variant(row: Row) -> str:
    """The rates that were best, where several were tried."""
    if len(row.method.variants) < 2:
        return ""
    rates = sorted({result.variant.rate for result in row.results})
    return f" at {', '.join(f'{rate:g}' for rate in rates)} x rate"


def _range(spread: Spread) -> str:
    low, high = number(spread.low), number(spread.high)
    return "" if low == high else f"{low} – {high}"


def _versus(board: Board, row: Row, fixed: Row | None) -> Cell:
    if row is fixed or fixed is None:
        return Cell("best fixed" if row is fixed else "–", "quiet")
    fall = board.shortfall(row, fixed)
    return Cell(_fall(fall), "bad" if fall > CLOSE else "")


def _fall(fall: float) -> str:
    """``3.1 % worse``; a large one as a factor."""
    if math.isinf(fall):
        return "fails" if fall > 0 else "alone"
    if abs(fall) < 5e-4:
        return "the same"
    if fall > 9:
        return f"{number(1 + fall, 2)} times"
    return f"{percent(abs(fall), tenths=True)} {'worse' if fall > 0 else 'better'}"


def _reached(row: Row) -> Cell:
    if not row.solved:
        return Cell("never", "quiet")
    steps = row.steps
    if math.isinf(steps.high):
        return Cell(f"{row.solved} of {len(row.results)} seeds")
    return Cell(f"step {steps.median:.0f}", "", _range(steps))


def _clipped(row: Row) -> Cell:
    if row.method.clip is None:
        return NONE
    share = row.group.spread("clipped_steps").median
    return Cell(percent(share)) if math.isfinite(share) else NONE


def _largest(row: Row) -> Cell:
    high = row.group.spread("norm_max").high
    return Cell(number(high, 3)) if math.isfinite(high) else Cell("not finite", "bad")


def _skipped(row: Row) -> Cell:
    skipped = sum(run.skipped_steps for run in row.group.runs)
    return Cell(str(skipped)) if skipped else NONE


def _time(row: Row) -> Cell:
    return Cell(duration(sum(result.seconds for result in row.results) / len(row.results)), "quiet")


def markdown(sheet: Sheet) -> str:
    """A sheet as a table of Markdown; what is best is bold."""
    lines = ["| " + " | ".join(sheet.header) + " |", "|" + "---|" * len(sheet.header)]
    lines += ["| " + " | ".join(_marked(cell) for cell in row) + " |" for row in sheet.rows]
    return "\n".join(lines) + "\n"


def _marked(cell: Cell) -> str:
    text = f"**{cell.text}**" if cell.mood == "best" else cell.text
    return f"{text} ({cell.range})" if cell.range else text
