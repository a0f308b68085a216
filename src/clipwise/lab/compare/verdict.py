"""Sentences that state the results.

Each rule is a small function from the groups to a sentence or None; `verdict` applies them in order.
"""

import math
from collections.abc import Sequence

from clipwise import config
from clipwise.clip import Clip
from clipwise.errors import ClipwiseError
from clipwise.lab.compare.figures import Figures
from clipwise.lab.compare.groups import Group, baseline_of, best_of
from clipwise.lab.compare.wording import metric_name, value_of
from clipwise.wording import join, number, percent

__all__ = ["headline", "verdict"]

NOTICEABLE = 1.0
"""Per cent of error below which a difference is called none."""

NORMALISED = 0.85
"""Mean clip fraction from which on clipping nearly normalises; AutoClip at q=10 clips 0.9 by design."""


def verdict(groups: Sequence[Group]) -> list[str]:
    """The results in order: without clipping, with each clip, which clip to use, and how certain that is."""
    baseline = baseline_of(groups)
    sentences = [] if baseline is None else [_baseline(baseline)]
    for each in groups:
        if each is not baseline:
            sentences.append(_outcome(each, baseline))
        sentences += [s for s in (_normalised(each), _skipped(each)) if s]
    return sentences + [
        s for s in (_conclusion(groups, baseline), _certainty(groups), _multiple(groups)) if s
    ]


def _multiple(groups: Sequence[Group]) -> str | None:
    """Once: the runs of a comparison differ in their clips, which the first gradients are not told of."""
    runs = (run for each in groups for run in each.runs)
    return next((f"{run.label}, seed {run.seed}: {run.multiple}" for run in runs if run.multiple), None)


def headline(groups: Sequence[Group]) -> str:
    """The result in one line, for a title."""
    baseline, best = baseline_of(groups), best_of(groups)
    if best is None:
        unfinished = any(each.interrupted for each in groups)
        return "Interrupted before any run ended" if unfinished else "Every run diverged"
    value = value_of(best.metric, best.final.median)
    if baseline is None or baseline.interrupted or len(groups) == 1:
        return f"{best.label}: {value}"
    same = all(_close(each, baseline) for each in groups if each is not baseline)
    alike = "Clipping made no difference here"
    if best is baseline:
        return f"{alike if same else 'No clip did better than none'}: {value} without clipping"
    if baseline.diverged:
        return f"{best.label}: {value}; without clipping {_count_diverged(baseline)} diverged"
    reduction = best.reduction(baseline)
    if reduction is None:
        return f"{best.label}: {value}"
    if abs(reduction) < NOTICEABLE:
        base = value_of(baseline.metric, baseline.final.median)
        said = alike if same else "No clip did noticeably better than none"
        return f"{said}: {best.label} {value}, no clipping {base}"
    return f"{best.label}: {value}, {_change(best, reduction)} than without clipping"


def _baseline(group: Group) -> str:
    if group.interrupted:
        return _interrupted(group, "Without clipping the run")
    if group.diverged:
        return f"Without clipping {_count_diverged(group)} diverged{_where(group)}."
    value = value_of(group.metric, group.final.median)
    if all(not run.learned for run in group.runs) and math.isfinite(group.first.first_loss):
        run = group.first
        return (
            f"Without clipping nothing was learned: the training loss ended at {number(run.final_loss)}, it"
            f" began at {number(run.first_loss)} ({value})."
        )
    return f"Without clipping the {_runs(group)} ended at {value}."


def _outcome(group: Group, baseline: Group | None) -> str:
    if group.interrupted:
        return _interrupted(group, group.label)
    if group.never_fired:
        return _idle(group, baseline)
    if group.diverged:
        who = group.label if len(group.runs) == 1 else f"{group.label}: {_count_diverged(group)}"
        also = " too" if baseline is not None and baseline.diverged else ""
        return f"{who} diverged{also}{_where(group)}."
    ended = f"{group.label} ended at {value_of(group.metric, group.final.median)}"
    if baseline is None or baseline.interrupted:
        return f"{ended}."
    if baseline.diverged:
        return f"{ended}, where {_count_diverged(baseline)} without clipping diverged."
    return _against(group, baseline, ended)


def _against(group: Group, baseline: Group, ended: str) -> str:
    """A clip that worked against a baseline that did: better, the same, or worse."""
    reduction = group.reduction(baseline)
    base = value_of(baseline.metric, baseline.final.median)
    if reduction is None:
        return f"{ended}, without clipping at {base}."
    if abs(reduction) < NOTICEABLE:
        return f"{ended}, no different from the run without clipping ({base})."
    chance = "; the seeds overlap, so this may be chance" if _overlap(group, baseline) else ""
    if reduction > 0:
        return f"{ended}, {_change(group, reduction)} than without clipping ({base}){chance}."
    return f"Clipping hurt: {ended}, {_change(group, reduction)} than without clipping ({base}){chance}."


def _idle(group: Group, baseline: Group | None) -> str:
    norm = number(group.spread("norm_max").high)
    if _measures_all(group.first.clip):
        found = f"the largest norm was {norm}"
    else:
        found = (
            f"no single group reached its threshold (the largest norm of all gradients together was {norm})"
        )
    if baseline is None:
        return (
            f"{group.label} never clipped: {found}; it ended at {value_of(group.metric, group.final.median)}."
        )
    if _same_runs(group, baseline):
        return f"{group.label} never clipped: {found}; it is the same run as without clipping."
    return (
        f"{group.label} never clipped: {found}; a difference from the run without clipping has other causes."
    )


def _normalised(group: Group) -> str | None:
    fraction = group.spread("clip_fraction").median
    if group.diverged or not NORMALISED <= fraction <= 1.0:
        return None
    if group.spread("threshold").median == 0:
        return f"{group.label}: a threshold of 0 makes every gradient 0: nothing is learned."
    clip = _parsed(group.first.clip)
    if isinstance(clip, Clip) and clip.per == "element":
        return (
            f"{group.label} clips {percent(fraction)} of the entries: little more than their signs is left."
        )
    what = "steps" if _measures_all(group.first.clip) else "groups in a step"
    return (
        f"{group.label} clips {percent(fraction)} of the {what}: the gradient is nearly normalised, and the"
        " threshold acts as a learning rate."
    )


def _skipped(group: Group) -> str | None:
    skipped = sum(run.skipped_steps for run in group.runs)
    if not skipped:
        return None
    steps = sum(run.steps for run in group.runs)
    bad = sum(run.nonfinite_steps for run in group.runs)
    why = "NaN or infinite" if skipped <= bad else "NaN, infinite or above the threshold"
    return f"{group.label} skipped {skipped} of {steps} steps, whose gradient was {why}."


def _conclusion(groups: Sequence[Group], baseline: Group | None) -> str | None:
    finished = [each for each in groups if not each.interrupted]
    if len(finished) < 2:
        return None
    best = best_of(groups)
    if best is None:
        return (
            "Every run diverged: none of these clips is enough; lower the learning rate, or check the data."
        )
    if best is baseline:
        same = all(_close(each, best) for each in finished if each is not best)
        return None if same else "No clip did better than none."
    close = [each.label for each in finished if each is not baseline and _close(each, best)]
    near = f", and {join(close)} within {NOTICEABLE:g} % of it" if close else ""
    return f"Best: {best.label} with {value_of(best.metric, best.final.median)}{near}."


def _close(group: Group, best: Group) -> bool:
    reduction = group.reduction(best)
    return reduction is not None and abs(reduction) < NOTICEABLE


def _certainty(groups: Sequence[Group]) -> str | None:
    if len(groups) < 2 or any(len(each.runs) > 1 for each in groups):
        return None
    return "One seed: a difference of a few per cent may be chance; --seeds 3 shows the spread."


def _interrupted(group: Group, who: str) -> str:
    steps = next(run.steps for run in group.runs if run.interrupted)
    return f"{who} was interrupted after {steps} {'step' if steps == 1 else 'steps'}."


def _runs(group: Group) -> str:
    return "run" if len(group.runs) == 1 else f"{len(group.runs)} runs"


def _count_diverged(group: Group) -> str:
    bad, all_ = len(group.diverged), len(group.runs)
    if all_ == 1:
        return "the run"
    return f"all {all_} runs" if bad == all_ else f"{bad} of {all_} runs"


def _where(group: Group) -> str:
    """`` at step 37 (loss NaN)``, for the seed that diverged first."""
    run = min(group.diverged, key=lambda r: r.diverged_at or 0)
    at = f" at step {run.diverged_at}" if len(group.runs) == 1 else f", the first at step {run.diverged_at}"
    return f"{at} ({_loss(run)})"


def _loss(run: Figures) -> str:
    if math.isnan(run.last_loss):
        return "loss NaN"
    if math.isinf(run.last_loss):
        return "loss infinite"
    if run.last_loss > 10 * abs(run.first_loss):
        return f"loss {number(run.last_loss)}, from {number(run.first_loss)}"
    return "weights no longer finite"


def _change(group: Group, reduction: float) -> str:
    """``69 % lower`` for a metric that should be low; the error, where it is 1 - metric."""
    if group.lower_is_better:
        return f"{_points(reduction)} {'lower' if reduction > 0 else 'higher'}"
    name = f"(1 - {metric_name(group.metric)})"
    return f"{_points(reduction)} {'less' if reduction > 0 else 'more'} error {name}"


def _points(reduction: float) -> str:
    """An error reduction; below 2 % with a digit after the point, above 1000 % as a factor."""
    size = abs(reduction)
    if size >= 1000:
        return f"{number(1 + size / 100, 3)} times"
    return f"{size:.1f} %" if size < 2 else percent(size / 100)


def _overlap(one: Group, other: Group) -> bool:
    """Whether the ranges over several seeds overlap."""
    if min(len(one.runs), len(other.runs)) < 2:
        return False
    return one.final.low <= other.final.high and other.final.low <= one.final.high


def _same_runs(one: Group, other: Group) -> bool:
    """Whether both took the same path; the roughness alone sums over every loss."""

    def path(run: Figures) -> str:
        return repr(
            (
                run.steps,
                run.last_loss,
                run.final_loss,
                run.roughness,
                run.norm_median,
                run.norm_max,
                run.final,
            )
        )

    return {run.seed: path(run) for run in one.runs} == {run.seed: path(run) for run in other.runs}


def _parsed(clip: str | None) -> object:
    try:
        return None if clip is None else config.parse(clip)
    except ClipwiseError:
        return None  # a clip with a Python function in it has no string form: its label says what it is


def _measures_all(clip: str | None) -> bool:
    """Whether the norm that was recorded is the norm that was compared with the threshold."""
    parsed = _parsed(clip)
    return isinstance(parsed, Clip) and parsed.per == "global"
