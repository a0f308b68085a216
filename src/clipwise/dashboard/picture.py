"""The report as a picture: loss, norm and threshold, clip fraction, layers, distribution."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from clipwise.dashboard.drawing import BAD, LIGHT, blank, caption, dress, headed, png, shorten
from clipwise.monitor.store import HELD, NORM, PREFIX, joined
from clipwise.monitor.wording import percent

PAPER, QUIET = LIGHT.paper, LIGHT.quiet
LINE, LIMIT = "#0072b2", "#c4520a"
PARTS = (LINE, "#d55e00", "#00805a", "#a8457f", "#7d6a00", "#5b4bb3", "#3f7f93", "#8c3b1b")
REASONS = {"history": LINE, "length": PARTS[2], "loss": PARTS[3], "floor": PARTS[4], "weights": PARTS[5]}
REASONS |= {"ceiling": PARTS[7], "start": QUIET, "warm-up": QUIET}


def picture(data: Mapping[str, Any]) -> bytes:
    """PNG bytes, 1950 pixels wide, of the first run of a report and its first source.

    Args:
        data: as `clipwise.dashboard.report.collect` returns it.
    """
    run = data["runs"][0]
    one, there = data["run"][str(run["id"])], data["series"][str(run["id"])]
    source = (one["sources"] or [""])[0]
    figure = blank(10.4, LIGHT)
    axes = figure.subplot_mosaic(
        [["loss", "norm"], ["fraction", "distribution"], ["layers", "layers"]], height_ratios=[1, 0.9, 1.1]
    )
    ours = there.get(source, {})
    logged = one["logged"][0] if one["logged"] else None
    if logged is None:
        _loss(axes["loss"], None, "")
    else:
        _loss(axes["loss"], there[logged["source"]].get(logged["name"]), joined(**logged))
    parts = {each["pattern"]: there.get(each["source"], {}) for each in one["parts"].get(source, [])}
    if parts:
        _norm_of_parts(axes["norm"], parts)
    else:
        _norm(axes["norm"], ours.get(NORM), ours.get(f"{PREFIX}threshold"))
        _held(
            axes["norm"],
            {name: ours[HELD + name] for name in one["reasons"].get(source, ()) if HELD + name in ours},
        )
    _fraction(axes["fraction"], ours.get(f"{PREFIX}clip_fraction"))
    _distribution(axes["distribution"], data["distribution"][str(run["id"])][source])
    _layers(figure, axes["layers"], data["layers"][str(run["id"])][source])
    for axis in axes.values():
        dress(axis, LIGHT)
    clip = run["clip"] or "measured, not clipped"
    title = f"{shorten(run['name'], 70)}   ·   {run['steps']:,} steps   ·   {shorten(clip, 60)}"
    headed(figure, title, LIGHT, size=14)
    return png(figure, LIGHT)


def _loss(axis: Any, found: Any, name: str) -> None:
    if not found:
        _nothing(axis, "Loss", "no loss was recorded")
        return
    caption(axis, "Loss", name if name and name != "loss" else "", LIGHT)
    axis.plot(*_line(found["line"]), color=LINE, lw=0.8, alpha=0.35)
    axis.plot(*_line(found["mean"]), color=LINE, lw=1.8)
    _marks(axis, found)
    axis.set_xlabel("step", color=QUIET)


def _norm(axis: Any, norm: Any, threshold: Any) -> None:
    if not norm:
        _nothing(axis, "Gradient norm", "no norm was recorded")
        return
    caption(axis, "Gradient norm", "before clipping; dashed: the threshold", LIGHT)
    x, y = _line(norm["line"])
    axis.plot(x, y, color=LINE, lw=0.8)
    if np.any(y[np.isfinite(y)] > 0):
        axis.set_yscale("log", nonpositive="mask")
    if threshold and np.any(np.isfinite(_line(threshold["line"])[1])):
        axis.plot(*_line(threshold["line"]), color=PAPER, lw=3.5)
        axis.plot(*_line(threshold["line"]), color=LIMIT, lw=1.8, ls=(0, (5, 2)))
    _marks(axis, norm)
    axis.set_xlabel("step", color=QUIET)


def _held(axis: Any, reasons: Mapping[str, Any]) -> None:
    """What held the threshold: a band below its curve, with the share of each reason."""
    reasons = {name: found for name, found in reasons.items() if found["line"]["x"]}
    if not reasons:
        return
    x = np.unique(np.concatenate([_line(found["line"])[0] for found in reasons.values()]))
    shares = {name: _held_at(found, x) for name, found in reasons.items()}
    band = axis.inset_axes([0, 0, 1, 0.05], sharex=axis)
    colours = {name: REASONS.get(name) or PARTS[6 + at % 2] for at, name in enumerate(reasons)}
    band.stackplot(x, list(shares.values()), colors=list(colours.values()), step="post", lw=0)
    band.set_ylim(0, 1)
    band.axis("off")
    place = 0.01
    for name, y in shares.items():
        said, colour = f"{shorten(name, 20)} {percent(float(np.mean(y)))}", colours[name]
        box = {"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
        text = axis.text(place, 0.065, said, color=colour, fontsize=8.5, transform=axis.transAxes, bbox=box)
        text.set_parse_math(False)
        place += 0.02 + 0.0135 * len(said)


def _held_at(found: Mapping[str, Any], x: Any) -> Any:
    """The share of a reason at some steps: 0 where its policy was not the one, as before a run went on."""
    own, y = _line(found["line"])
    place = np.searchsorted(own, x, "right") - 1
    return np.where((place < 0) | (x > found["last"][0] + 1), 0.0, y[np.maximum(place, 0)])


def _norm_of_parts(axis: Any, parts: Mapping[str, Mapping[str, Any]]) -> None:
    """With `clipwise.by_name` each part has a norm and a threshold of its own."""
    caption(axis, "Gradient norm", "of each part before clipping; dashed: its threshold", LIGHT)
    for place, (pattern, found) in enumerate(parts.items()):
        colour = PARTS[place % len(PARTS)]
        if NORM in found:
            axis.plot(*_line(found[NORM]["line"]), color=colour, lw=0.8, label=shorten(pattern, 30))
        if f"{PREFIX}threshold" in found:
            axis.plot(*_line(found[f"{PREFIX}threshold"]["line"]), color=colour, lw=1.8, ls=(0, (5, 2)))
    axis.set_yscale("log", nonpositive="mask")
    for text in axis.legend(frameon=False, fontsize=9, labelcolor=LIGHT.ink).get_texts():
        text.set_parse_math(False)
    axis.set_xlabel("step", color=QUIET)


def _fraction(axis: Any, found: Any) -> None:
    if not found:
        _nothing(axis, "Clip fraction", "no clip fraction was recorded")
        return
    caption(axis, "Clip fraction", f"mean of {found['mean']['window']} steps", LIGHT)
    axis.plot(*_line(found["mean"]), color=LINE, lw=1.6)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("step", color=QUIET)


def _distribution(axis: Any, found: Mapping[str, Any]) -> None:
    if not found["edges"]:
        _nothing(axis, "Distribution of norms", "no norms above 0")
        return
    caption(axis, "Distribution of norms", "root of the counts", LIGHT)
    edges, counts = np.asarray(found["edges"]), np.sqrt(found["counts"])
    axis.bar(edges[:-1], counts, np.diff(edges) * 0.94, align="edge", color=LINE, alpha=0.6)
    axis.set_xscale("log")
    top = float(counts.max())
    marks = [mark for mark in found["marks"] if mark["value"] > 0 and mark["name"] != "mean"]
    for place, mark in enumerate(sorted(marks, key=lambda one: one["value"])):
        colour = LIMIT if mark["name"] == "threshold" else QUIET
        axis.axvline(mark["value"], color=colour, lw=1.2, ls="-" if colour == LIMIT else ":")
        share = mark["clipped"] / found["count"]
        text = f"{mark['name'].replace(' percentile', '')} {mark['value']:.3g} clips {share:.1%}"
        axis.text(
            mark["value"],
            top * (1.34 - 0.075 * place),
            f" {text}",
            color=colour,
            fontsize=8.5,
            va="top",
            ha="left",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.8, "alpha": 0.9},
        )
    axis.set_ylim(0, top * 1.38)
    axis.set_yticks([])


def _layers(figure: Any, axis: Any, found: Mapping[str, Any]) -> None:
    names, starts = found["names"], found["starts"]
    if not names or not starts:
        _nothing(axis, "Layers", "no norms of layers were recorded")
        return
    caption(axis, "Layers", "norm of each gradient; NaN and Inf in red", LIGHT)
    codes = (
        np.frombuffer(base64.b64decode(found["cells"]), "<u2").reshape(len(names), len(starts)).astype(float)
    )
    span = np.log10(found["largest"] / found["least"])
    shown = np.log10(found["least"]) + (codes - 2) / 65532 * span
    edges = [*starts, max(found["end"], starts[-1] + 1)]
    rows = np.arange(len(names) + 1)
    drawn = np.ma.masked_where((codes < 2) | (codes == 65535), shown)
    mesh = axis.pcolormesh(edges, rows, drawn, cmap="viridis", rasterized=True)
    bad = np.argwhere(codes == 65535)
    axis.plot([starts[c] for _, c in bad], bad[:, 0] + 0.5, "s", color=BAD, ms=4, mec=PAPER, mew=0.5)
    axis.invert_yaxis()
    every = max(1, int(np.ceil(len(names) / 24)))
    axis.set_yticks(rows[:-1][::every] + 0.5)
    axis.set_yticklabels([_short(name) for name in names[::every]], fontsize=7.5, parse_math=False)
    axis.set_xlabel("step", color=QUIET)
    bar = figure.colorbar(mesh, ax=axis, pad=0.01, fraction=0.03)
    bar.set_label("log10 of the norm", color=QUIET)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=QUIET, labelsize=8, length=0)


def _line(points: Mapping[str, Any]) -> tuple[Any, Any]:
    return np.asarray(points["x"], dtype=float), np.asarray(points["y"], dtype=float)


def _marks(axis: Any, found: Mapping[str, Any]) -> None:
    shapes = {"nan": "D", "inf": "^", "-inf": "v"}
    for kind, shape in shapes.items():
        steps = [step for step, each, _ in found["marks"] if each == kind]
        if steps:
            axis.plot(steps, [1.0] * len(steps), shape, color=BAD, ms=5, clip_on=False,
                      transform=axis.get_xaxis_transform(), label=kind)  # fmt: skip


def _nothing(axis: Any, title: str, text: str) -> None:
    caption(axis, title, "", LIGHT)
    axis.text(0.5, 0.5, text, color=QUIET, ha="center", va="center", transform=axis.transAxes)
    axis.set_xticks([])
    axis.set_yticks([])


def _short(name: str) -> str:
    return name if len(name) <= 34 else "…" + name[-33:]
