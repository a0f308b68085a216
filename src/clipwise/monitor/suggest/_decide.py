"""From what was seen to what to do, and why: the rules, in the order in which they are asked."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from clipwise.clip import AnyClip, auto, clip_by_global_norm
from clipwise.monitor.rules import ThresholdTooLow
from clipwise.monitor.store import Floats
from clipwise.monitor.suggest import _say as say
from clipwise.monitor.suggest._breakdown import FOLD, Breakdown, breakdown
from clipwise.monitor.suggest._given import Given
from clipwise.monitor.suggest._statistics import (
    NET,
    Statistics,
    drift_of,
    rounded,
    statistics_of,
)

Verdict: TypeAlias = Literal["clip", "adapt", "keep", "not needed", "unknown"]

ENOUGH = 50
"""Norms from which a percentile is worth something."""

FEWEST = 10
FAR = 3.0  # quarters of which the medians differ by more have no threshold in common
MOSTLY = 0.5  # of the steps: a clip that acts so often has made these norms what they are
HARDLY = 0.01
TOO_LOW = ThresholdTooLow()  # the rule that speaks of it while a run goes on: one judgement for both


@dataclass(frozen=True)
class Decision:
    """What to do.

    Attributes:
        verdict, clip, threshold, reasons: as in `Suggestion`.
        statistics: of all norms.
        usual: the norms that the candidates are taken from; none where they are too few.
    """

    verdict: Verdict
    clip: AnyClip | None
    threshold: float | None
    reasons: tuple[str, ...]
    statistics: Statistics
    usual: Floats


def decide(given: Given) -> Decision:
    """Ask one rule after the other; the first that applies decides."""
    broken = breakdown(given)
    before = given.norms[: None if broken is None else broken.at]
    before = before[np.isfinite(before) & (before > 0)]
    usual = before[before <= FOLD * np.median(before)] if len(before) else before
    statistics = statistics_of(given.norms, before, usual)
    reasons = say.of_the_record(given, statistics)
    if broken is not None and statistics.mean is not None:
        reasons += say.broke(given, broken, len(before))
    verdict, clip, threshold, why = _rule(given, broken, before, usual, statistics)
    reasons += why
    if verdict in ("clip", "not needed") and not len(given.losses):
        reasons += say.without_losses()
    if verdict in ("clip", "keep") and threshold is not None:
        reasons += say.against_typical(given.kind, threshold)
    return Decision(
        verdict, clip, threshold, tuple(reasons), statistics, usual if len(usual) >= FEWEST else usual[:0]
    )


_Ruling: TypeAlias = tuple[Verdict, AnyClip | None, float | None, list[str]]


def _rule(
    given: Given, broken: Breakdown | None, before: Floats, usual: Floats, statistics: Statistics
) -> _Ruling:
    if statistics.mean is None:
        return "unknown", None, None, say.nothing_usable(statistics)
    if broken is not None and len(before) < ENOUGH:
        return "adapt", auto(), None, say.too_few_before(before)
    if len(before) < FEWEST:
        return "adapt", auto(), None, say.too_few(len(before), given.kind)
    if broken is None and given.clipped_share >= MOSTLY:
        kept = _kept(given, before)
        if kept is not None:
            return kept
    drift = drift_of(before)
    if drift is not None and drift.wander / drift.noise > FAR:
        return "adapt", auto(), None, say.drifts(drift, before, usual)
    beyond = np.flatnonzero(before > NET * np.median(before))
    if broken is None and given.clipped_share <= HARDLY:
        if not len(beyond):
            return "not needed", None, None, say.calm(before, len(before) < ENOUGH)
        start = max(FEWEST, len(before) // 20)
        if beyond[-1] < start and len(given.losses) >= ENOUGH:
            last = int(beyond[-1])
            ends = _ends(given.losses)
            if not ends[1] < ends[0]:
                return "adapt", auto(), None, say.harmed_at_the_start(before, len(beyond), last, ends)
            in_force = _in_force(given)
            if given.clipped_share > 0 and in_force is not None:
                clip, usual_threshold, fixed = in_force
                return "keep", clip, fixed, say.acted_at_the_start(last, usual_threshold)
            return "not needed", None, None, say.calm_but_at_the_start(before, len(beyond), last)
    threshold = rounded(float(np.percentile(usual, 95)))
    clip = clip_by_global_norm(threshold, given.order)
    few = len(before) < ENOUGH
    return "clip", clip, threshold, say.a_number(given, threshold, before, usual, statistics.hill, few)


def _ends(losses: Floats) -> tuple[float, float]:
    """The first loss, and the median of the last tenth."""
    finite = losses[np.isfinite(losses)]
    return float(finite[0]), float(np.median(finite[-max(1, len(finite) // 10) :]))


def _kept(given: Given, before: Floats) -> _Ruling | None:
    """A clip that has acted most of the time goes on; None if it is far too low."""
    too_low = _too_low(given)
    if too_low is not None and too_low == len(given.norms) - 1:
        return None
    once = [] if too_low is None else say.was_too_low(given.step(too_low))
    in_force = _in_force(given)
    if in_force is None:
        return None
    clip, usual, fixed = in_force
    return "keep", clip, fixed, say.kept(given, usual) + once


def _in_force(given: Given) -> tuple[AnyClip, float | None, float | None] | None:
    """The clip in force, its usual threshold where one was recorded, and the same where it never changed."""
    if given.thresholds is None:
        return None if given.clip is None else (given.clip, None, None)
    bounded = given.thresholds[np.isfinite(given.thresholds)]
    if not len(bounded):
        return None
    threshold = float(np.median(bounded))
    clip = clip_by_global_norm(rounded(threshold), given.order) if given.clip is None else given.clip
    return clip, threshold, threshold if np.all(bounded == bounded[0]) else None


def _too_low(given: Given) -> int | None:
    """The last place up to which nearly all steps hit the threshold and little was left of them, if any.

    As the rule judges it, but for how often: where the threshold never rose in a window.
    """
    after = given.after
    if after is None and given.thresholds is not None:
        after = np.minimum(given.norms, given.thresholds)
    if after is None or given.clipped is None:
        return None
    places = np.flatnonzero(np.isfinite(given.norms) & (given.norms > 0) & np.isfinite(after))
    left, hit = after[places] / given.norms[places], given.clipped[places]
    rose = np.zeros(len(places), bool)
    if given.thresholds is not None:
        rose[1:] = np.diff(given.thresholds[places]) > 0
    size = min(TOO_LOW.window, len(places))
    for end in range(len(places), size - 1, -max(1, size // 8)):
        window = slice(end - size, end)
        if np.mean(hit[window]) < TOO_LOW.often or rose[window][1:].any():
            continue
        if np.median(left[window]) < TOO_LOW.left:
            return int(places[end - 1]) if end < len(places) else len(given.norms) - 1
    return None
