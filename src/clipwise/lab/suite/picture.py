"""The picture of a task: the final value of every seed and method, and learning curves of a few."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clipwise.dashboard.drawing import BAD, Look, blank, caption, dress, png
from clipwise.lab.compare.wording import heading
from clipwise.lab.suite.standings import Board, Row

__all__ = ["draw", "shown"]

COLOURS = {
    "baseline": "#8c959f",
    "fixed": "#0072b2",
    "clip": "#d55e00",
    "auto": "#009e73",
    "rival": "#cc79a7",
}
"""Of Okabe and Ito, which colour-blind people can tell apart; the dashes differ as well."""
DASHES: dict[str, Any] = {
    "baseline": "-",
    "fixed": (0, (6, 2)),
    "clip": (0, (2, 1.5)),
    "auto": "-",
    "rival": "-.",
}
ROW, REST = 0.25, 1.3
"""Inches a method needs, and all that is around them."""
REACH = 4.0
"""Beyond so many times the distance of the middle from the best, a value stands at the edge."""


def draw(board: Board, look: Look) -> bytes:
    """The picture as PNG, 1950 pixels wide."""
    figure = blank(max(4.0, ROW * len(board.rows) + REST), look)
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1.0])
    _finals(left, board, look)
    _ways(right, board, look)
    return png(figure, look)


def shown(board: Board) -> list[Row]:
    """Whose way is drawn: no clipping, and the best of the fixed thresholds, other clips and rivals."""
    roles = ("baseline", "fixed", "clip", "auto", "rival")
    found = [board.best(role) for role in roles]
    return [row for row in found if row is not None and any(result.curve for result in row.results)]


def _finals(axis: Any, board: Board, look: Look) -> None:
    dress(axis, look)
    task = board.task
    better = "lower is better" if task.lower_is_better else "higher is better"
    caption(axis, heading(task.metric), better, look)
    ends = _ends(board)
    edge = ends[1] if task.lower_is_better else ends[0]
    for place, row in enumerate(board.rows):
        colour = COLOURS[row.method.role]
        runs = row.group.runs
        sound = [run.final for run in runs if _near(run.final, ends) and not run.diverged]
        axis.scatter(sound, [place] * len(sound), color=colour, s=34, zorder=3)
        lost = len(runs) - len(sound)
        axis.scatter([edge] * lost, [place] * lost, color=BAD, marker="x", s=40, zorder=3, clip_on=False)
        middle = row.group.final.median
        if _near(middle, ends) and not row.diverged:
            axis.plot([middle, middle], [place - 0.38, place + 0.38], color=colour, lw=2.4)
    axis.set_yticks(range(len(board.rows)), [row.method.label for row in board.rows])
    axis.set_ylim(len(board.rows) - 0.4, -0.6)
    axis.set_xlim(*ends)
    axis.set_xlabel(
        "dots are seeds, bars are medians; crosses diverged or lie outside the chart", color=look.quiet
    )


def _ways(axis: Any, board: Board, look: Look) -> None:
    dress(axis, look)
    caption(axis, "During training", "medians; the best method of each kind", look)
    for row in shown(board):
        steps, values = _middle([result.curve for result in row.results])
        role = row.method.role
        axis.plot(steps, values, color=COLOURS[role], ls=DASHES[role], lw=2, label=row.method.label)
    axis.set_xlabel("step", color=look.quiet)
    axis.set_ylim(*_ends(board, [value for row in shown(board) for value in _first(row)]))
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, labelcolor=look.ink, fontsize=10)


def _middle(curves: Sequence[Sequence[tuple[int, float]]]) -> tuple[list[int], list[float]]:
    """The median of the seeds wherever one was evaluated; a run that ended keeps its last value."""
    steps = sorted({step for curve in curves for step, _ in curve})
    known = [curve for curve in curves if curve]
    rows = [[_at(curve, step) for step in steps] for curve in known]
    return steps, [float(value) for value in np.nanmedian(np.array(rows), axis=0)]


def _at(curve: Sequence[tuple[int, float]], step: int) -> float:
    before = [value for place, value in curve if place <= step]
    return before[-1] if before else math.nan


def _first(row: Row) -> list[float]:
    """What each seed began with, as far as it was looked at."""
    return [result.curve[0][1] for result in row.results if result.curve]


def _near(value: float, ends: tuple[float, float]) -> bool:
    return math.isfinite(value) and ends[0] <= value <= ends[1]


def _ends(board: Board, also: Sequence[float] = ()) -> tuple[float, float]:
    """From a little beyond the best value to a little beyond the middle ones."""
    lower = board.task.lower_is_better
    values = [
        run.final
        for row in board.rows
        for run in row.group.runs
        if math.isfinite(run.final) and not run.diverged
    ]
    values += also
    if not values:
        return 0.0, 1.0
    best, far = (min(values), max(values)) if lower else (max(values), min(values))
    reach = REACH * (float(np.median(values)) - best)
    if reach and abs(reach) < abs(far - best):
        far = best + reach
    room = 0.05 * (abs(far - best) or abs(best) or 1.0)
    low, high = sorted((best, far))
    return low - room, high + room
