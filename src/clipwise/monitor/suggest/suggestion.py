"""Which threshold to use, and why."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clipwise import config
from clipwise.clip import AnyClip, Norm, clip_by_global_norm
from clipwise.errors import ArgumentError, ClipwiseError
from clipwise.monitor.store import Floats
from clipwise.monitor.store.plain import plain
from clipwise.monitor.suggest._decide import Verdict, decide
from clipwise.monitor.suggest._given import Given, Positions, numbers_of, thresholds_of
from clipwise.monitor.suggest._lines import builtin_lines, lines
from clipwise.monitor.suggest._say import named
from clipwise.monitor.suggest._statistics import Candidate, Statistics, candidates_of
from clipwise.monitor.suggest._typical import Typical, kind_of, typical_of
from clipwise.monitor.wording import number, percent


@dataclass(frozen=True)
class Suggestion:
    """A recommendation and its reasons.

    Attributes:
        verdict: ``"clip"`` (at a number), ``"adapt"`` (no number fits; use a threshold that adapts),
            ``"keep"`` (the clip that was in force), ``"not needed"``, or ``"unknown"`` (there is nothing to
            judge by).
        clip: the recommended clip; None if clipping is not needed or nothing is known.
        threshold: its number, to two significant digits; None if there is none.
        statistics: statistics of the norms.
        candidates: other thresholds, and how many recorded steps each would have clipped.
        reasons: plain sentences.
        typical: thresholds in common use, for the given kind of model or for all kinds.
        lines: the lines to paste for ``"pytorch"``, ``"keras"``, ``"optax"``, ``"lightning"`` and
            ``"transformers"``; empty without a clip.
        builtin: the same with the frameworks' own clipping, where it is possible.
    """

    verdict: Verdict
    clip: AnyClip | None
    threshold: float | None
    statistics: Statistics
    candidates: tuple[Candidate, ...]
    reasons: tuple[str, ...]
    typical: tuple[Typical, ...]
    lines: dict[str, str]
    builtin: dict[str, str]

    @property
    def headline(self) -> str:
        """The recommendation in a few words.

        >>> suggest([1.0] * 100).headline
        'Clipping is not needed.'
        """
        if self.verdict == "not needed":
            return "Clipping is not needed."
        if self.clip is None:
            return "No threshold can be recommended."
        return f"{'Keep' if self.verdict == 'keep' else 'Use'} {named(self.clip)}."

    def to_dict(self) -> dict[str, Any]:
        """The suggestion in the types of JSON, with None for NaN, Inf and missing numbers."""
        try:
            clip = config.to_dict(self.clip)
        except ClipwiseError:  # a function in it has no such form
            clip = None
        found = {
            "verdict": self.verdict,
            "headline": self.headline,
            "clip": None if self.clip is None else named(self.clip),
            "config": clip,
            "threshold": self.threshold,
            "statistics": asdict(self.statistics),
            "candidates": [asdict(one) for one in self.candidates],
            "reasons": list(self.reasons),
            "typical": [asdict(one) for one in self.typical],
            "lines": self.lines,
            "builtin": self.builtin,
        }
        return {key: plain(value, lambda value: None) for key, value in found.items()}

    def __str__(self) -> str:
        rows = [self.headline, *(f"- {reason}" for reason in self.reasons)]
        rows += [
            f"  {one.name}: {number(one.threshold)} clips {one.clipped:,} of the steps ({percent(one.share)})"
            for one in self.candidates
        ]
        return "\n".join(rows)


def suggest(
    norms: Any,
    *,
    losses: Any = None,
    kind: str | None = None,
    thresholds: Any = None,
    order: Norm = 2.0,
) -> Suggestion:
    """Recommend a threshold from the gradient norms before clipping, one per step, in order.

    The first rule that applies decides:

    1. No finite norm above 0: nothing is recommended.
    2. The run broke down, with fewer than 50 norms before: ``auto()``. Norms after the breakdown never count,
       so that an explosion does not raise the threshold.
    3. Fewer than 10 norms: ``auto()``.
    4. A clip was in force and clipped half of the steps or more: keep it, unless it is far too low by the
       criterion of `clipwise.monitor.rules.ThresholdTooLow`, applied to the last steps.
    5. The medians of the four quarters of the run differ by more than a factor of 3 beyond the noise:
       ``auto()``.
    6. No norm exceeds five medians, and no clip acted in more than 1 % of the steps: clipping is not needed.
       The same holds if only norms at the start do, and the losses show that they did no harm.
    7. Otherwise the 95th percentile of the norms up to ten medians, to two significant digits.

    A run breaks down if its norms stay above ten times their median so far, if NaN or Inf persist, or if the
    loss stays above its first value or loses half of its decrease.

    Args:
        norms: a vector of any library, a list, or a `clipwise.monitor.Series`.
        losses: one per norm, including NaN and Inf. Without them an explosion is recognised by the norms
            alone.
        kind: kind of model: transformer, recurrent, gan, ppo, dqn or vision. It selects what is shown beside
            the recommendation. For gan, ppo and dqn the loss is not taken as a measure of progress.
        thresholds: thresholds in force while the norms were recorded: one, or one per norm; inf for none.
        order: order of the norms.

    Returns:
        A `Suggestion`.

    Raises:
        ArgumentError: the norms are empty, negative, or not a vector of numbers; or another argument does not
            fit.

    Source: the percentile as in Seetharaman et al. 2020, arXiv:2007.14469, made robust to explosions.

    >>> norms = [1.0, 1.1, 0.9, 1.2, 0.8, 1.0, 1.1, 0.9, 1.0, 60.0] * 20
    >>> found = suggest(norms, kind="transformer")
    >>> found.clip
    Clip(threshold=1.2, per='global', norm=2.0)
    >>> [(one.name, one.clipped) for one in found.candidates][:2]
    [('recommended', 20), ('slightly above the mean', 40)]
    >>> print(found.lines["pytorch"])
    import clipwise.torch
    clipper = clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(1.2), model=model)
    """
    kind = kind_of(kind)
    order = clip_by_global_norm(1.0, order).norm
    checked = numbers_of("norms", norms, least=0.0)
    known, places = _losses(losses, len(checked))
    given = Given(checked, known, places, kind=kind, order=order)
    if thresholds is not None:
        bounds = thresholds_of(thresholds, checked)
        given = Given(
            checked, known, places, kind=kind, order=order, thresholds=bounds, clipped=checked > bounds
        )
    return suggestion_of(given)


def suggestion_of(given: Given) -> Suggestion:
    """The recommendation from everything that is known about a run."""
    with np.errstate(over="ignore"):  # five medians of 1e308 are Inf, and shown as such
        decision = decide(given)
    mark = None
    if decision.threshold is not None:
        mark = ("in force" if decision.verdict == "keep" else "recommended", decision.threshold)
    return Suggestion(
        verdict=decision.verdict,
        clip=decision.clip,
        threshold=decision.threshold,
        statistics=decision.statistics,
        candidates=candidates_of(given.norms, decision.usual, mark),
        reasons=decision.reasons,
        typical=typical_of(given.kind),
        lines=lines(decision.clip),
        builtin=builtin_lines(decision.clip),
    )


def _losses(losses: Any, count: int) -> tuple[Floats, Positions]:
    if losses is None:
        return np.zeros(0), np.zeros(0, dtype=np.int64)
    found = numbers_of("losses", losses)
    if len(found) != count:
        raise ArgumentError(f"there are {len(found)} losses for {count} norms: give one for each")
    return found, np.arange(count)
