"""The four panels of the picture."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from clipwise.dashboard.drawing import Look, caption, shorten
from clipwise.lab.compare.groups import Group
from clipwise.lab.compare.wording import heading
from clipwise.lab.record import RunRecord
from clipwise.lab.report.curves import (
    Curve,
    DrawnClip,
    held_out,
    limits,
    middle,
    smooth,
    step_curve,
    thinned,
)
from clipwise.wording import number, percent

__all__ = ["clipped", "loss", "metric", "norm"]


def metric(axes: Axes, series: Sequence[DrawnClip], look: Look) -> None:
    """The held-out metric over the steps, with the final values on the right."""
    first = series[0].runs[0]
    better = "lower is better" if first.lower_is_better else "higher is better"
    caption(axes, f"{heading(first.metric)} on held-out data", better, look)
    low, high = _metric_limits(series)
    axes.set_ylim(low, high)
    ends = []
    for s in series:
        curves = [_within(held_out(run), low, high) for run in s.runs]
        if len(curves) > 1:
            for curve in curves:
                axes.plot(curve.steps, curve.values, color=s.colour, ls=s.dash, lw=1.0, alpha=0.4)
        line = middle(curves, missing=math.inf if first.lower_is_better else -math.inf)
        axes.plot(line.steps, line.values, color=s.colour, ls=s.dash, lw=2.2, marker=s.mark, markersize=4.5)
        final = _final(s)
        if math.isfinite(final):
            ends.append((final, number(final), s.colour))
    _label_ends(axes, ends)
    _mark_divergence(axes, series, look)


def loss(axes: Axes, series: Sequence[DrawnClip], look: Look) -> None:
    """The training loss; on a logarithmic scale where it spans more than a factor of 30."""
    curves = [step_curve(run, "loss") for run in _sound(series)]
    low, high = limits(curves, 0.0, 98.5) or (0.1, 1.0)
    firsts = [run.steps["loss"][0] for s in series for run in s.runs if run.steps["loss"]]
    high = max([high, *(value for value in firsts if math.isfinite(value))])
    pad = 0.05 * (high - low) or 1.0
    wide = low > 0 and high > 30 * low
    if wide:
        _logarithmic(axes, low / 1.3, high * 1.3)
    else:
        axes.set_ylim(low - pad, high + pad)
    caption(axes, "Training loss", "each step, and its running median", look)
    for s in series:
        _lines(axes, s, "loss", look)


def norm(axes: Axes, series: Sequence[DrawnClip], look: Look) -> None:
    """The gradient norm before clipping and the threshold, on a logarithmic scale."""
    _logarithmic(axes, *_norm_limits(series))
    caption(axes, "Gradient norm before clipping", "dotted: the threshold", look)
    for s in series:
        _lines(axes, s, "norm", look)
    for s in series:
        if s.role != "baseline":
            line = thinned(_threshold(s))
            axes.plot(line.steps, line.values, color=s.colour, ls=(0, (1, 1.4)), lw=2.0, zorder=5)


def clipped(axes: Axes, series: Sequence[DrawnClip], groups: Sequence[Group], look: Look) -> None:
    """A bar per clip: the share of its steps that were clipped."""
    caption(axes, "Steps clipped", "share of all steps", look)
    rows = [(s, g) for s, g in zip(series, groups, strict=True) if s.role != "baseline"]
    axes.grid(False, axis="y")
    axes.set_xlim(0, 1.0)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_yticks([])
    axes.set_ylim(max(len(rows), 1) - 0.35, -0.65)
    for index, (s, group) in enumerate(rows):
        share = group.spread("clipped_steps").median
        share = share if math.isfinite(share) else 0.0
        axes.barh(index + 0.12, 1.0, height=0.34, color=look.grid, zorder=1)
        axes.barh(index + 0.12, share, height=0.34, color=s.colour, zorder=2)
        axes.text(
            0.0,
            index - 0.14,
            shorten(s.label, 58),
            color=look.ink,
            fontsize=10.5,
            va="bottom",
            parse_math=False,
        )
        text = "never fired" if group.never_fired else percent(share)
        axes.text(
            1.0, index - 0.14, text, color=s.colour, fontsize=11, fontweight="bold", va="bottom", ha="right"
        )
    if not rows:
        axes.text(0.5, 0.5, "no clipping", color=look.quiet, ha="center", transform=axes.transAxes)


def _sound(series: Sequence[DrawnClip]) -> list[RunRecord]:
    """The runs that did not diverge, or all where all did: they set the scale."""
    runs = [(run, at) for s in series for run, at in zip(s.runs, s.diverged_at, strict=True)]
    return [run for run, at in runs if at is None] or [run for run, _ in runs]


def _metric_limits(series: Sequence[DrawnClip]) -> tuple[float, float]:
    low, high = limits([held_out(run) for run in _sound(series)]) or (0.0, 1.0)
    pad = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
    return low - pad, high + pad


def _norm_limits(series: Sequence[DrawnClip]) -> tuple[float, float]:
    runs = [run for s in series for run in s.runs]
    low, high = limits([_positive(step_curve(run, "norm")) for run in runs], 0.2, 99.9) or (0.1, 1.0)
    for s in series:
        # each by itself: among many clips one far threshold would be lost in the percentiles of all
        bounds = None if s.role == "baseline" else limits([_threshold(s)], 2, 98)
        if bounds is not None:
            low, high = min(low, bounds[0]), max(high, bounds[1])
    return low / 1.8, high * 1.8


def _threshold(s: DrawnClip) -> Curve:
    """What the norm was not to exceed, the middle of the seeds; thresholds of zero or infinity left out."""
    return middle([_positive(step_curve(run, "threshold")) for run in s.runs])


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    """A logarithmic scale whose numbers are plain; below two powers of ten also at 2 and 5."""
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _positive(curve: Curve) -> Curve:
    return Curve(curve.steps, np.where(curve.values > 0, curve.values, np.nan))


def _within(curve: Curve, low: float, high: float) -> Curve:
    return Curve(curve.steps, np.clip(curve.values, low, high))


def _lines(axes: Axes, s: DrawnClip, column: str, look: Look) -> None:
    """Every step faintly, its running median (of several seeds the middle one), a cross at a divergence."""
    curves = [_within(step_curve(run, column), *axes.get_ylim()) for run in s.runs]
    for curve, at in zip(curves, s.diverged_at, strict=True):
        line = thinned(curve)
        axes.plot(line.steps, line.values, color=s.colour, lw=0.7, alpha=0.22 if len(curves) == 1 else 0.1)
        known = np.flatnonzero(np.isfinite(curve.values))
        if at is not None and len(known):
            _cross(axes, curve.steps[known[-1]], curve.values[known[-1]], s.colour, look)
    line = middle([smooth(curve) for curve in curves])
    axes.plot(line.steps, line.values, color=s.colour, ls=s.dash, lw=1.9, alpha=0.95)


def _cross(axes: Axes, x: float, y: float, colour: str, look: Look) -> None:
    axes.plot(
        [x], [y], marker="X", markersize=11, color=colour, markeredgecolor=look.paper, zorder=6, clip_on=False
    )


def _mark_divergence(axes: Axes, series: Sequence[DrawnClip], look: Look) -> None:
    """A cross where each run diverged, at the height of its last evaluation, and the first step in words."""
    low, high = axes.get_ylim()
    slot = 0  # those without an evaluation are put below each other at the bad end
    for s in series:
        found = []
        for run, at in zip(s.runs, s.diverged_at, strict=True):
            if at is None:
                continue
            before = held_out(run).values
            share = 0.94 - 0.075 * slot if run.lower_is_better else 0.06 + 0.075 * slot
            found.append(
                (at, float(np.clip(before[-1], low, high)) if len(before) else low + share * (high - low))
            )
            _cross(axes, *found[-1], s.colour, look)
        if not found:
            continue
        slot += 1
        (at, y), edge = min(found), max(x for x, _ in found)
        many = "diverged" if len(s.runs) == 1 else f"{len(found)} of {len(s.runs)} diverged, the first"
        right = edge < 0.6 * axes.get_xlim()[1]
        axes.annotate(
            f"{many} at step {at}", (edge if right else at, y), xytext=(10 if right else -10, 0),
            textcoords="offset points", va="center", ha="left" if right else "right", fontsize=10,
            color=s.colour, fontweight="bold", zorder=7,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": look.paper, "edgecolor": "none", "alpha": 0.85},
        )  # fmt: skip


def _final(s: DrawnClip) -> float:
    """The median of the final metrics; not finite where half of the seeds diverged."""
    worst = math.inf if s.runs[0].lower_is_better else -math.inf
    values = [
        worst if at is not None else run.final.get(run.metric, math.nan)
        for run, at in zip(s.runs, s.diverged_at, strict=True)
    ]
    return float(np.median(values))


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """The final values at the right, moved apart where they would cover each other."""
    low, high = axes.get_ylim()
    gap, position = min(0.055, 1 / max(1, len(ends))) * (high - low), -math.inf
    for value, text, colour in sorted(ends):
        position = max(min(value, high), position + gap)
        axes.annotate(
            text, (1.0, position), xycoords=("axes fraction", "data"), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=10.5, fontweight="bold", color=colour,
            annotation_clip=False,
        )  # fmt: skip
