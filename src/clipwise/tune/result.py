"""The result of a search: in words, as a configuration, and as a chart of quality over threshold."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipwise.config import parse, to_dict
from clipwise.dashboard.drawing import BAD, LIGHT, blank, caption, dress, headed, png
from clipwise.files import save
from clipwise.tune.space import AUTO, NONE
from clipwise.tune.study import Trial
from clipwise.wording import number

COLOURS = ("#0072b2", "#d55e00", "#cc79a7", "#e69f00", "#56b4e9", "#a08900")
"""Of Okabe and Ito, which colour-blind people can tell apart; the marks differ as well."""
MARKS = "osD^vP"


def configuration(best: Trial) -> dict[str, Any]:
    """The best clip as the text of a configuration file."""
    clip = parse(best.chosen.clip)
    found: dict[str, Any] = {"gradient_clipping": None if clip is None else to_dict(clip)}
    return found if best.chosen.rate is None else found | {"learning_rate": best.chosen.rate}


def sentences(trials: Sequence[Trial], best: Trial, metric: str, lower_is_better: bool) -> list[str]:
    """The best trial, and beside it the best trials of `auto` and of no clipping."""
    said = [f"Best: {_title(best)}, {metric} {number(best.value)} (trial {best.number})."]
    for method, name in ((AUTO, "auto()"), (NONE, "no clipping")):
        own = _best_of(trials, method, lower_is_better)
        if own is None or own.value is None or best.value is None or method == best.chosen.method:
            continue
        said.append(f"{name} reached {number(own.value)}, {_apart(own.value, best.value)}.")
    pruned = sum(one.state == "pruned" for one in trials)
    if pruned:
        were = "was" if pruned == 1 else "were"
        said.append(f"{pruned} of {len(trials)} trials {were} stopped early.")
    return said


def _title(trial: Trial) -> str:
    rate = trial.chosen.rate
    clip = "no clipping" if trial.chosen.clip == NONE else trial.chosen.clip
    return clip if rate is None else f"{clip} at a learning rate of {rate:g}"


def _apart(value: float, best: float) -> str:
    if not math.isfinite(value):
        return "it diverged"
    if not best:
        return f"{number(abs(value))} away from it"
    share = abs(value - best) / abs(best)
    if share >= 1:
        times = value / best
        return f"{number(times, 2)} times that" if times > 1 else f"{number(abs(value - best))} away from it"
    return "the same" if share < 5e-4 else f"{number(100 * share, 2)} % worse"


def _best_of(trials: Sequence[Trial], method: str, lower_is_better: bool) -> Trial | None:
    own = [one for one in trials if one.chosen.method == method and one.value is not None]
    sign = 1.0 if lower_is_better else -1.0
    return min(own, key=lambda one: sign * (one.value or 0.0), default=None)


def picture(trials: Sequence[Trial], title: str, metric: str, lower_is_better: bool) -> bytes:
    """Quality over threshold, one panel per method with a number; lines for `auto` and no clipping.

    Trials that diverged are crosses at the edge. Returns PNG bytes.
    """
    methods = list(dict.fromkeys(one.chosen.method for one in trials if one.chosen.number is not None))
    lines = {
        name: _best_of(trials, one, lower_is_better)
        for name, one in (("auto()", AUTO), ("no clipping", NONE))
    }
    ends = _ends([one for one in trials if one.chosen.method != NONE], lower_is_better)
    figure = blank(5.2, LIGHT)
    headed(figure, title, LIGHT)
    axes = figure.subplots(1, max(1, len(methods)), sharey=True, squeeze=False)[0]
    for place, (axis, method) in enumerate(zip(axes, methods or [""], strict=True)):
        dress(axis, LIGHT)
        caption(axis, method, "" if place else metric, LIGHT)
        own = [one for one in trials if one.chosen.method == method and one.value is not None]
        near = [one for one in own if ends[0] <= (one.value or 0.0) <= ends[1]]
        numbers = [one.chosen.number or 1.0 for one in own]
        colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)]
        axis.scatter(
            [one.chosen.number for one in near], [one.value for one in near], color=colour, marker=mark, s=60
        )
        far = [one.chosen.number for one in own if one not in near]
        axis.scatter(
            far, [ends[lower_is_better]] * len(far), color=BAD, marker="x", s=60, label="outside the chart"
        )
        for (name, reached), dashes in zip(lines.items(), ("-", "--"), strict=True):
            if reached is not None:
                axis.axhline(
                    reached.value,
                    color=LIGHT.quiet,
                    linestyle=dashes,
                    label=f"{name}: {number(reached.value)}",
                )
        if numbers:
            axis.set_xscale("log")
            axis.set_xlim(min(numbers) / 3, max(numbers) * 3)
    axes[0].set_ylim(*ends)
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(frameon=False, labelcolor=LIGHT.ink)
    return png(figure, LIGHT)


def _ends(trials: Sequence[Trial], lower_is_better: bool) -> tuple[float, float]:
    """From a little beyond the best value to a little beyond the middle ones."""
    values = sorted(one.value for one in trials if one.value is not None and math.isfinite(one.value))
    if not values:
        return 0.0, 1.0
    ordered = values if lower_is_better else values[::-1]
    best, far = ordered[0], ordered[-1]
    reach = 4 * (ordered[len(ordered) // 2] - best)
    if reach and abs(reach) < abs(far - best):
        far = best + reach
    room = 0.08 * ((far - best) or abs(best) or 1.0)
    return (min(best - room, far + room), max(best - room, far + room))


def write(folder: Path, drawn: bytes, found: dict[str, Any]) -> list[Path]:
    """Write the picture and the configuration to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    places = [folder / "tune.json", folder / "tune.png"]
    for place, content in zip(places, (json.dumps(found, indent=2).encode() + b"\n", drawn), strict=True):
        save(place, content, force=True)
    return places
