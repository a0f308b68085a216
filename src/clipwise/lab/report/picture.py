"""The picture: held-out metric, training loss, gradient norm with thresholds, and how often each clip acted.

The colours are those of Okabe and Ito, which are safe for colour-blind readers; line styles differ as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from clipwise.dashboard.drawing import DARK, LIGHT, Look, blank, dress, headed, png, shorten
from clipwise.lab.compare.groups import Group
from clipwise.lab.record import RunRecord
from clipwise.lab.report import panels
from clipwise.lab.report.curves import DrawnClip, until_divergence

__all__ = ["compose", "draw"]

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class Palette:
    """The colours of the clips by role, and the other colours."""

    look: Look
    baseline: str
    configured: str
    auto: str
    given: tuple[str, ...]


PALETTES = {
    "light": Palette(
        LIGHT,
        baseline="#8c959f",
        configured="#0072b2",
        auto="#009e73",
        given=("#d55e00", "#cc79a7", "#e69f00", "#56b4e9", "#a08900"),
    ),
    "dark": Palette(
        DARK,
        baseline="#8d96a0",
        configured="#4ba3dd",
        auto="#2fc79c",
        given=("#f0803c", "#df9cc2", "#f0b440", "#86ccf2", "#f0e442"),
    ),
}
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (4, 1.5, 1, 1.5)), (0, (2, 1.5)), (0, (8, 2, 2, 2)))
MARKS = "os^Dv"

TOP, BOTTOM, REST = 3.08, 2.75, 2.77
"""Inches: the height of the upper and the lower panels, and of all that is around them."""
LABEL = 60
"""Characters of a label in the legend."""
VALUE, BAR, LINE = 0.17, 0.42, 0.24
"""Inches that a final value, a bar with its label and a line of the legend need."""


def draw(
    records: Sequence[RunRecord], groups: Sequence[Group], *, title: str = "", theme: Theme = "light"
) -> bytes:
    """The picture as PNG bytes, 1950 pixels wide; with many clips it grows in height.

    Args:
        records: the runs; the seeds of one clip share a colour.
        groups: their figures.
        title: one line above; none where it is empty.
        theme: for a light or a dark page.
    """
    return png(compose(records, groups, title=title, theme=theme), PALETTES[theme].look)


def compose(
    records: Sequence[RunRecord], groups: Sequence[Group], *, title: str = "", theme: Theme = "light"
) -> Figure:
    """The picture as a figure of matplotlib; the arguments are those of `draw`."""
    palette = PALETTES[theme]
    look, series = palette.look, _series(records, palette)
    top = max(TOP, VALUE * len(series))
    bottom = max(BOTTOM, BAR * sum(s.role != "baseline" for s in series))
    rest = REST + LINE * max(0, math.ceil(len(series) / _side_by_side(series)) - 2)
    figure: Figure = blank(top + bottom + rest, look)
    axes = figure.subplot_mosaic(
        [["metric", "loss"], ["norm", "clipped"]], height_ratios=[top, bottom], width_ratios=[1.15, 1.0]
    )
    last = max((len(record.steps["loss"]) for record in records), default=1)
    for name, panel in axes.items():
        dress(panel, look)
        if name != "clipped":
            panel.set_xlim(0, last * 1.02)
            panel.set_xlabel("step", color=look.quiet)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    panels.metric(axes["metric"], series, look)
    panels.loss(axes["loss"], series, look)
    panels.norm(axes["norm"], series, look)
    panels.clipped(axes["clipped"], series, groups, look)
    if title:
        headed(figure, shorten(title, 110), look)
    _legend(figure, series, look)
    return figure


def _series(records: Sequence[RunRecord], palette: Palette) -> list[DrawnClip]:
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        runs.setdefault(record.label, []).append(record)
    fixed = {"baseline": palette.baseline, "configured": palette.configured, "auto": palette.auto}
    found, given = [], 0
    for index, (label, each) in enumerate(runs.items()):
        role, style = each[0].role, index % len(DASHES)
        colour = fixed.get(role) or palette.given[given % len(palette.given)]
        given += role not in fixed
        cut, at = zip(*map(until_divergence, each), strict=True)
        found.append(DrawnClip(label, role, colour, DASHES[style], MARKS[style], cut, at))
    return found


def _side_by_side(series: Sequence[DrawnClip]) -> int:
    """How many labels of the legend fit into its width of about 150 characters, of which a line takes 9."""
    room = 150 // max(min(len(s.label), LABEL) + 9 for s in series)
    return max(1, min(len(series), room))


def _legend(figure: Figure, series: Sequence[DrawnClip], look: Look) -> None:
    """Below everything, as many labels side by side as fit."""
    legend = figure.legend(
        [Line2D([], [], color=s.colour, ls=s.dash, marker=s.mark, markersize=5, lw=2.2) for s in series],
        [shorten(s.label, LABEL) for s in series],
        loc="outside lower left",
        ncols=_side_by_side(series),
        frameon=False,
        labelcolor=look.ink,
        fontsize=11,
        handlelength=3.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
