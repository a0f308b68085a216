"""The reasons in plain sentences."""

import numpy as np

from clipwise import config
from clipwise.clip import AnyClip
from clipwise.errors import ClipwiseError
from clipwise.monitor.store import Floats
from clipwise.monitor.suggest._breakdown import Breakdown
from clipwise.monitor.suggest._given import Given
from clipwise.monitor.suggest._statistics import NET, Drift, Statistics, rarest, share_bounds
from clipwise.monitor.suggest._typical import typical_of
from clipwise.monitor.wording import number, percent
from clipwise.wording import counted

HEAVY_TAIL = 2.0
SIGNS = {
    "nonfinite": "from there it ends in NaN or Inf",
    "loss": "from there the loss is worse for good",
    "norm": "from there the norms are more than ten times what they were, for good",
}
"""By what a breakdown shows."""


def named(clip: AnyClip | None) -> str:
    """A clip as people write it."""
    try:
        return config.to_string(clip)
    except ClipwiseError:
        return repr(clip)


def of_the_record(given: Given, statistics: Statistics) -> list[str]:
    """What is peculiar about what was recorded."""
    said = []
    if statistics.nonfinite:
        said.append(
            f"{_steps(statistics.nonfinite)} of {statistics.count:,} had NaN or Inf in the gradient. They are"
            " left out here, and by clipwise in training (nonfinite='skip'); clipping in time can keep a"
            " run from getting there, but repairs no such gradient."
        )
    if statistics.zeros:
        said.append(
            f"{_steps(statistics.zeros)} had a gradient of exactly 0 and are left out of the statistics."
        )
    if given.clipped is not None and given.clipped.any():
        what = f" by {named(given.clip)}" if given.clip is not None else ""
        said.append(
            f"The run was clipped{what} in {percent(given.clipped_share)} of its steps. The norms are those"
            " before clipping, so they count; without that clip the run might have gone elsewhere."
        )
        if given.unknown:
            said.append(
                "Which clip that was is not recorded, as the run had several: the norms are taken to be of"
                f" order {given.order}."
            )
    if given.order != 2.0:
        said.append(f"The norms are of order {given.order}, and so is the clip.")
    return said


def broke(given: Given, broken: Breakdown, left: int) -> list[str]:
    """Where the run broke down."""
    doubt = ""
    if broken.sign == "norm" and not len(given.losses):
        doubt = " Only the loss could tell an explosion from a late start, and none was given."
    return [
        f"The run broke down at step {given.step(broken.at):,}: {SIGNS[broken.sign]}. Only the"
        f" {_norms(left)} before that count{'s' * (left == 1)}, so that the explosion does not lift the"
        f" threshold.{doubt}"
    ]


def nothing_usable(statistics: Statistics) -> list[str]:
    if statistics.nonfinite == statistics.count:
        return ["There is no finite norm to judge by: find out first where NaN or Inf comes from."]
    return [
        "No norm is above 0: no gradient reaches the parameters. Clipping cannot change that; look whether"
        " the loss depends on them."
    ]


def too_few_before(before: Floats) -> list[str]:
    usual = f" (median {number(float(np.median(before)))})" if len(before) else ""
    said = [
        f"{_norms(len(before)).capitalize()}{usual} {_are(len(before))} too few to choose a number from:"
        " auto() learns the threshold from the run itself: with SGD from the first step on, by the weights"
        " and the learning rate; with optimizers that divide by the gradient's own size (Adam, RMSprop) from"
        " the second."
    ]
    said.append("A lower learning rate may be needed as well. Record the next run and ask again.")
    return said


def too_few(count: int, kind: str | None) -> list[str]:
    ranges = [one for one in typical_of(kind) if one.is_norm] if kind else []
    usual = (
        f" Usual for this kind of model: {number(ranges[0].low)} to {number(ranges[0].high)}."
        if ranges
        else ""
    )
    return [
        f"{_norms(count).capitalize()} {_are(count)} too few to choose a number from: auto() learns the"
        f" threshold from the run itself.{usual}"
    ]


def without_losses() -> list[str]:
    return [
        "Nothing is known of the loss, so a run that went wrong without NaN looks like one that went well."
    ]


def kept(given: Given, threshold: float | None) -> list[str]:
    at = f" (median {number(threshold)})" if threshold is not None else ""
    return [
        f"The threshold in force{at} acted in most steps, so it has made these norms what they are: how"
        " large they would be without it is not known. The run did not break down with it: keep it. If the"
        " training is too slow, try twice the threshold."
    ]


def was_too_low(step: int) -> list[str]:
    return [
        f"Up to step {step:,} most norms were more than five times the threshold, so that little was left of"
        " them; that is over, and nothing has to be raised for it."
    ]


def drifts(drift: Drift, before: Floats, usual: Floats) -> list[str]:
    first, *_, last = np.array_split(before, 4)
    fixed = float(np.percentile(usual, 95))
    whole = "all" if len(usual) == len(before) else "those up to ten medians"
    shares = (float(np.mean(quarter > fixed)) for quarter in (first, last))
    one, other = (percent(share) for share in shares)
    way = "fell" if drift.ratio < 1 else "rose"
    if drift.wander > 1.5 * max(drift.ratio, 1 / drift.ratio):
        seen = f"The medians of the four quarters of the run differ by a factor of {number(drift.wander)}."
    else:
        factor = max(drift.ratio, 1 / drift.ratio)
        seen = (
            f"From the first to the last quarter of the run the median norm {way} by a factor of"
            f" {number(factor)}."
        )
    return [
        f"{seen} No single number fits all of it: {number(fixed)}, above 95 % of {whole}, would clip {one} of"
        f" the first quarter and {other} of the last. auto() follows the norms."
    ]


def calm(before: Floats, few: bool) -> list[str]:
    median, largest = float(np.median(before)), float(before.max())
    said = [
        f"No norm exceeds five times the median: the largest is {number(largest)}, the median"
        f" {number(median)}. Clipping is not needed here; a threshold above {number(largest)} would never"
        " have acted."
    ]
    if few:
        said.append(
            f"That rests on {_norms(len(before))} only: spikes may still come in up to"
            f" {percent(rarest(len(before)))} of the steps."
        )
    else:
        said.append(
            f"As a precaution, clip_by_global_norm at five medians ({number(5 * median)}) costs nothing."
        )
    return said


def calm_but_at_the_start(before: Floats, count: int, last: int) -> list[str]:
    return [
        f"Only {_norms(count)} of {len(before):,} exceed{'s' * (count == 1)} five times the median, all"
        f" within the first {last + 1}, and the loss took no harm: clipping is not needed here. The"
        " remedy for such a start is a warm-up of the learning rate."
    ]


def acted_at_the_start(last: int, threshold: float | None) -> list[str]:
    which = "" if threshold is None else f" (median {number(threshold)})"
    return [
        f"The clip in force{which} acted on the large norms of the first {last + 1} steps, and the loss fell:"
        " what they would do without it is not known. Keep it."
    ]


def harmed_at_the_start(before: Floats, count: int, last: int, ends: tuple[float, float]) -> list[str]:
    return [
        f"{_norms(count).capitalize()} of {len(before):,} exceed{'s' * (count == 1)} five times the median,"
        f" all within the first {last + 1}, and the loss never recovered: it began at {number(ends[0])} and"
        f" ended at {number(ends[1])}. The norms after such a start are not those of a run that learns, so"
        " the threshold has to adapt from the first step on."
    ]


def a_number(
    given: Given, threshold: float, before: Floats, usual: Floats, hill: float | None, few: bool
) -> list[str]:
    clipped = int(np.count_nonzero(before > threshold))
    largest, median = float(before.max()), float(np.median(before))
    beyond = int(np.count_nonzero(before > NET * median))
    said = []
    if beyond:
        said.append(
            f"{_norms(beyond).capitalize()} exceed{'s' * (beyond == 1)} five times the median"
            f" ({number(median)}), the largest {number(largest / median)} times: clipping keeps such"
            " steps from moving the weights too far."
        )
    elif given.clipped_share > 0:
        said.append(
            "No norm exceeds five times the median, but that was with a clip in force: whether it is needed"
            " cannot be told."
        )
    else:
        said.append("Before it broke down the run was calm; a threshold just above its norms can hold it.")
    spikes = len(before) - len(usual)
    apart = f" that are not beyond ten medians ({_norms(spikes)} {_are(spikes)})" if spikes else ""
    said.append(
        f"95 % of the norms{apart} lie below {threshold:g} (rounded to two significant digits): only unusual"
        f" gradients are clipped, {clipped:,} of these {len(before):,} ({percent(clipped / len(before))})."
    )
    if hill is not None and hill < HEAVY_TAIL:
        said.append(
            "Single gradients can be as large as many usual ones together (Hill's exponent of the largest is"
            f" {number(hill)}, below 2)."
        )
    if few:
        low, high = share_bounds(int(np.count_nonzero(before > threshold)), len(before))
        said.append(
            f"That rests on {_norms(len(before))} only: of further steps it may clip anything from"
            f" {percent(low)} to {percent(high)}. Record more and ask again."
        )
    said.append("It is a starting point: also try half and twice of it.")
    return said


def against_typical(kind: str | None, threshold: float) -> list[str]:
    """How the recommendation compares with what others use."""
    said = []
    for one in typical_of(kind) if kind else ():
        if not one.is_norm or one.low <= threshold <= one.high:
            continue
        side = "below" if threshold < one.low else "above"
        usual = number(one.low) if one.low == one.high else f"{number(one.low)} to {number(one.high)}"
        said.append(
            f"That is {side} what is usual for this kind of model ({kind}: {usual}). Norms depend on the size"
            " of the model, the loss and the batch, so what was measured counts for more."
        )
    return said


def _steps(count: int) -> str:
    return counted(count, "step")


def _norms(count: int) -> str:
    return counted(count, "norm")


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
