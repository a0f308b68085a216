"""The picture: held-out metric, training loss, gradient norm with thresholds, and how often each clip fired.

The colours are those of Okabe and Ito, which colour-blind people can tell apart; line styles differ as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from clipwise.lab.figures import BLOWN_UP, measure
from clipwise.lab.groups import Group
from clipwise.lab.record import RunRecord
from clipwise.lab.wording import heading, number, percent

__all__ = ["draw"]

Theme = Literal["light", "dark"]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Look:
    """Ink, paper and the colours by role."""

    paper: str
    panel: str
    ink: str
    quiet: str
    grid: str
    baseline: str
    configured: str
    auto: str
    given: tuple[str, ...]


LOOKS = {
    "light": Look(
        "#ffffff", "#ffffff", "#1f2328", "#6e7781", "#e6e8eb", "#8c959f", "#0072b2", "#009e73",
        ("#d55e00", "#cc79a7", "#e69f00", "#56b4e9", "#a08900"),
    ),
    "dark": Look(
        "#161b22", "#161b22", "#e6edf3", "#8d96a0", "#2b323b", "#8d96a0", "#4ba3dd", "#2fc79c",
        ("#f0803c", "#df9cc2", "#f0b440", "#86ccf2", "#f0e442"),
    ),
}  # fmt: skip
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (4, 1.5, 1, 1.5)), (0, (2, 1.5)), (0, (8, 2, 2, 2)))
MARKS = "os^Dv"


@dataclass(frozen=True)
class Series:
    """The runs of one clip with their colour and dashes."""

    label: str
    role: str
    colour: str
    dash: Any
    mark: str
    runs: tuple[RunRecord, ...]


def draw(
    records: Sequence[RunRecord], groups: Sequence[Group], *, title: str = "", theme: Theme = "light"
) -> bytes:
    """The picture as PNG bytes, 1950 pixels wide.

    Args:
        records: the runs; the seeds of one clip share a colour.
        groups: their figures.
        title: one line above; none where it is empty.
        theme: for a light or a dark page.
    """
    look = LOOKS[theme]
    series = _series(records, look)
    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.05)
    figure = Figure(figsize=(13, 8.6), dpi=150, facecolor=look.paper, layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.subplot_mosaic(
        [["metric", "loss"], ["norm", "clipped"]], height_ratios=[1.12, 1.0], width_ratios=[1.15, 1.0]
    )
    for panel in axes.values():
        _dress(panel, look)
    last = max((len(record.steps["loss"]) for record in records), default=1)
    for name in ("metric", "loss", "norm"):
        axes[name].set_xlim(0, last * 1.02)
        axes[name].set_xlabel("step", color=look.quiet)
        axes[name].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    _metric(axes["metric"], series, look)
    _loss(axes["loss"], series, look)
    _norm(axes["norm"], series, look)
    _clipped(axes["clipped"], series, groups, look)
    if title:
        figure.suptitle(
            _shorten(title, 110), fontsize=15, fontweight="bold", color=look.ink, x=0.012, ha="left"
        )
    handles = [
        Line2D([], [], color=s.colour, linestyle=s.dash, marker=s.mark, markersize=5, linewidth=2.2)
        for s in series
    ]
    figure.legend(
        handles,
        [_shorten(s.label, 60) for s in series],
        loc="outside lower left",
        ncols=_columns(series),
        frameon=False,
        labelcolor=look.ink,
        fontsize=11,
        handlelength=3.2,
    )
    out = BytesIO()
    figure.savefig(out, format="png", facecolor=look.paper, metadata={"Software": "clipwise"})
    return out.getvalue()


def _series(records: Sequence[RunRecord], look: Look) -> list[Series]:
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        runs.setdefault(record.label, []).append(record)
    found, given = [], 0
    for index, (label, each) in enumerate(runs.items()):
        role = each[0].role
        fixed = {"baseline": look.baseline, "configured": look.configured, "auto": look.auto}
        colour = fixed.get(role) or look.given[given % len(look.given)]
        given += role not in fixed
        style = index % len(DASHES)
        found.append(Series(label, role, colour, DASHES[style], MARKS[style], tuple(each)))
    return found


def _columns(series: Sequence[Series]) -> int:
    """As many labels side by side as fit."""
    width = max((len(s.label[:60]) for s in series), default=1) + 9
    return max(1, min(len(series), 150 // width))


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _dress(axes: Axes, look: Look) -> None:
    axes.set_facecolor(look.panel)
    axes.grid(True, color=look.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=look.quiet, labelsize=10, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(look.grid)


def _caption(axes: Axes, look: Look, title: str, note: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=look.ink, pad=10)
    if note:
        axes.set_title(note, loc="right", fontsize=9.5, color=look.quiet, pad=10)


def _metric(axes: Axes, series: Sequence[Series], look: Look) -> None:
    first = series[0].runs[0]
    better = "lower is better" if first.lower_is_better else "higher is better"
    _caption(axes, look, f"{heading(first.metric)} on held-out data", better)
    low, high = _metric_limits(series)
    axes.set_ylim(low, high)
    ends: list[tuple[float, str, str]] = []
    for s in series:
        alone = len(s.runs) == 1
        for run in s.runs:
            steps, shown = _held_out(run, low, high)
            look_of = {"linewidth": 2.2, "marker": s.mark} if alone else {"linewidth": 1.0, "alpha": 0.45}
            axes.plot(steps, shown, color=s.colour, linestyle=s.dash, markersize=4.5, **look_of)
        if not alone:
            steps, middle = _median_over([_held_out(run, low, high) for run in s.runs])
            axes.plot(
                steps, middle, color=s.colour, linestyle=s.dash, linewidth=2.4, marker=s.mark, markersize=4.5
            )
        _mark_divergence(axes, s, look)
        finals = [run.final.get(run.metric, math.nan) for run in s.runs if measure(run).diverged_at is None]
        if finals and len(finals) * 2 > len(s.runs):
            middle_final = float(np.median(finals))
            ends.append((middle_final, number(middle_final), s.colour))
    _label_ends(axes, ends, (low, high))


def _held_out(run: RunRecord, low: float, high: float) -> tuple[list[int], Floats]:
    values = np.array([e.metrics.get(run.metric, math.nan) for e in run.evaluations], dtype=np.float64)
    return [e.step for e in run.evaluations], np.clip(values, low, high)


def _median_over(curves: Sequence[tuple[Sequence[int], Floats]]) -> tuple[list[int], Floats]:
    """The median over the seeds at every step at which any of them has a value."""
    at: dict[int, list[float]] = {}
    for steps, values in curves:
        for step, value in zip(steps, values.tolist(), strict=True):
            if math.isfinite(value):
                at.setdefault(step, []).append(value)
    return sorted(at), np.array([np.median(at[step]) for step in sorted(at)], dtype=np.float64)


def _metric_limits(series: Sequence[Series]) -> tuple[float, float]:
    """From the runs that did not diverge; one that blew up leaves through the top and flattens nothing."""
    runs = [run for s in series for run in s.runs]
    sound = [run for run in runs if measure(run).diverged_at is None] or runs
    values = np.array([e.metrics.get(run.metric, math.nan) for run in sound for e in run.evaluations])
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if len(values) > 4 and high > 20 * max(abs(float(np.median(values))), 1e-12):
        high = float(np.percentile(values, 90))
    pad = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return low - pad, high + pad


def _mark_divergence(axes: Axes, s: Series, look: Look) -> None:
    """A cross where each run diverged, after its last sound evaluation, and the step of the first in words."""
    low, high = axes.get_ylim()
    found = []
    for run in s.runs:
        at = measure(run).diverged_at
        if at is None:
            continue
        steps, shown = _held_out(run, low, high)
        before = [y for x, y in zip(steps, shown.tolist(), strict=True) if x < at and math.isfinite(y)]
        edge = 0.94 if run.lower_is_better else 0.06
        found.append((at, before[-1] if before else low + edge * (high - low)))
    for at, y in found:
        axes.plot(
            [at], [y], marker="X", markersize=11, color=s.colour, markeredgecolor=look.panel, zorder=6,
            clip_on=False,
        )  # fmt: skip
    if found:
        at, y = min(found)
        many = "diverged" if len(s.runs) == 1 else f"{len(found)} of {len(s.runs)} diverged, the first"
        left = at < 0.6 * axes.get_xlim()[1]
        axes.annotate(
            f"{many} at step {at}", (at, y), xytext=(10 if left else -10, 0), textcoords="offset points",
            va="center", ha="left" if left else "right", fontsize=10, color=s.colour, fontweight="bold", zorder=7,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": look.panel, "edgecolor": "none", "alpha": 0.85},
        )  # fmt: skip


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]], limits: tuple[float, float]) -> None:
    """The final values at the right, moved apart where they would cover each other."""
    low, high = limits
    gap = 0.055 * (high - low)
    position = -math.inf
    for value, text, colour in sorted(ends):
        position = max(min(value, high), position + gap)
        axes.annotate(
            text, (1.0, position), xycoords=("axes fraction", "data"), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=10.5, fontweight="bold", color=colour,
            annotation_clip=False,
        )  # fmt: skip


def _smooth(values: Floats, window: int) -> Floats:
    """Running median of the finite values; NaN where there is none."""
    if window < 2 or len(values) < window:
        return values
    padded = np.concatenate([np.full(window - 1, np.nan), np.where(np.isfinite(values), values, np.nan)])
    view = np.lib.stride_tricks.sliding_window_view(padded, window)
    known = ~np.isnan(view).all(axis=1)
    out = np.full(len(values), np.nan)
    out[known] = np.nanmedian(view[known], axis=1)
    return out


def _lines(axes: Axes, s: Series, column: str, limits: tuple[float, float]) -> None:
    """Every step faintly; on top a running median over a fortieth of the run, the middle one of all seeds."""
    curves = []
    for run in s.runs:
        values = np.asarray(run.steps[column], dtype=np.float64)
        values[np.isinf(values)] = np.nan
        thin = max(1, len(values) // 4000)  # more points than pixels only cost time
        steps, shown = np.arange(1, len(values) + 1)[::thin], np.clip(values, *limits)[::thin]
        alpha = 0.22 if len(s.runs) == 1 else 0.1
        axes.plot(steps, shown, color=s.colour, linewidth=0.7, alpha=alpha)
        curves.append((steps.tolist(), _smooth(shown, max(1, len(shown) // 40))))
        known = np.flatnonzero(np.isfinite(shown))
        at = measure(run).diverged_at
        if at is not None and len(known):
            last = known[min(int(np.searchsorted(steps[known], at)), len(known) - 1)]
            axes.plot(
                [steps[last]], [shown[last]], marker="X", markersize=10, color=s.colour,
                markeredgecolor=axes.get_facecolor(), zorder=6, clip_on=False,
            )  # fmt: skip
    axes.plot(
        *(curves[0] if len(curves) == 1 else _median_over(curves)),
        color=s.colour,
        linestyle=s.dash,
        linewidth=1.9,
        alpha=0.95,
    )


def _loss(axes: Axes, series: Sequence[Series], look: Look) -> None:
    runs = [run for s in series for run in s.runs]
    sound = [run for run in runs if measure(run).diverged_at is None] or runs
    low, high = _range([run.steps["loss"] for run in sound], 0.0, 98.5)
    first = [value for run in runs for value in run.steps["loss"][:1] if math.isfinite(value)]
    high = max([high, *first])
    wide = low > 0 and high > 30 * low
    pad = 0.05 * (high - low) or 1.0
    limits = (low / 1.3, high * 1.3) if wide else (low - pad, high + pad)
    if wide:
        axes.set_yscale("log")
    axes.set_ylim(*limits)
    _caption(axes, look, "Training loss", "each step, and its running median")
    for s in series:
        _lines(axes, s, "loss", limits)


def _norm(axes: Axes, series: Sequence[Series], look: Look) -> None:
    runs = [run for s in series for run in s.runs]
    sound = [run for run in runs if measure(run).diverged_at is None] or runs
    positive = [[v for v in run.steps["norm"] if 0 < v < math.inf] for run in runs]
    low, high = _range(positive, 0.2, 99.8)
    calm = _range([[v for v in run.steps["norm"] if 0 < v < math.inf] for run in sound], 0.2, 99.8)
    high = min(high, calm[1] * BLOWN_UP**4)
    thresholds = [v for run in runs for v in run.steps["threshold"] if 0 < v < math.inf]
    if thresholds:  # in sight even where it never fires, but not at the price of the norms
        low = min(low, max(float(np.percentile(thresholds, 2)), low / 1e3))
        high = max(high, min(float(np.percentile(thresholds, 98)), high * 1e3))
    limits = (max(low, 1e-30) / 1.8, max(high, 1e-29) * 1.8)
    axes.set_yscale("log")
    axes.set_ylim(*limits)
    _caption(axes, look, "Gradient norm before clipping", "dotted: the threshold")
    for s in series:
        _lines(axes, s, "norm", limits)
    for s in series:
        for run in s.runs:
            bound = np.asarray(run.steps["threshold"], dtype=np.float64)
            bound = np.where(np.isfinite(bound) & (bound > 0), bound, np.nan)
            if s.role != "baseline" and not np.isnan(bound).all():
                steps = np.arange(1, len(bound) + 1)
                axes.plot(steps, bound, color=s.colour, linestyle=(0, (1, 1.4)), linewidth=2.0, zorder=5)


def _range(
    columns: Sequence[Sequence[float]], q_low: float = 0.0, q_high: float = 99.9
) -> tuple[float, float]:
    values = np.concatenate([np.asarray(c, dtype=np.float64) for c in columns]) if columns else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.1, 1.0
    return float(np.percentile(values, q_low)), float(np.percentile(values, q_high))


def _clipped(axes: Axes, series: Sequence[Series], groups: Sequence[Group], look: Look) -> None:
    _caption(axes, look, "Steps clipped", "share of all steps")
    rows = [(s, g) for s, g in zip(series, groups, strict=True) if s.role != "baseline"]
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.0)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_yticks([])
    axes.set_ylim(len(rows) - 0.35, -0.65)
    for index, (s, group) in enumerate(rows):
        share = group.spread("clipped_steps").median
        share = share if math.isfinite(share) else 0.0
        axes.barh(index + 0.12, 1.0, height=0.34, color=look.grid, zorder=1)
        axes.barh(index + 0.12, share, height=0.34, color=s.colour, zorder=2)
        axes.text(0.0, index - 0.14, _shorten(s.label, 58), color=look.ink, fontsize=10.5, va="bottom")
        text = "never fired" if share == 0 else percent(share)
        axes.text(
            1.0, index - 0.14, text, color=s.colour, fontsize=11, fontweight="bold", va="bottom", ha="right"
        )
    if not rows:
        axes.text(
            0.5, 0.5, "no clipping", color=look.quiet, ha="center", va="center", transform=axes.transAxes
        )
