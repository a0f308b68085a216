"""Combines the reports of parts into one report, in the same way for all back ends."""

from collections.abc import Mapping, Sequence
from typing import Any

from clipwise.functional.held import Held, held_by_parts
from clipwise.namespace import Array, Namespace
from clipwise.report import ClipReport

__all__ = ["changed", "left_out", "merged", "settled", "untouched"]


def untouched(xp: Namespace, norm: Array) -> ClipReport:
    """The report of gradients that were not changed."""
    zero = xp.full((), 0.0)
    return ClipReport(
        norm=norm,
        norm_after=norm,
        threshold=xp.full((), xp.inf),
        clipped=zero > 0,
        clip_fraction=zero,
        direction=xp.full((), 1.0),
    )


def merged(
    xp: Namespace,
    parts: Mapping[str, ClipReport],
    norm: Array,
    norm_after: Array,
    shares: Sequence[float] | None = None,
) -> ClipReport:
    """The combined report of several clips.

    Args:
        xp: namespace of their arrays.
        parts: the reports, at least one.
        norm, norm_after: norm of all gradients, before the first clip and after the last.
        shares: the share of the gradients that each part clipped; None if each part clipped all of them, one
            after the other. The clip fraction is then the largest of the parts.
    """
    every = list(parts.values())
    fractions = [report.clip_fraction for report in every]
    if shares is None:
        fraction = xp.max(xp.stack(fractions))
    else:
        fraction = sum(f * share for f, share in zip(fractions, shares, strict=True))
    threshold, skipped = xp.min(xp.stack([report.threshold for report in every])), None
    for report in every:  # of those that leave steps out, what was exceeded
        if report.skipped is not False:
            threshold = xp.where(report.skipped, report.threshold, threshold)
            skipped = report.skipped if skipped is None else skipped | report.skipped
    return ClipReport(
        norm=norm,
        norm_after=norm_after,
        threshold=threshold,
        skipped=False if skipped is None else skipped,
        clipped=xp.any(xp.stack([report.clipped for report in every])),
        clip_fraction=fraction,
        parts=dict(parts),
        held=held_by_parts(xp, every, threshold, shares),
    )


def changed(report: ClipReport, changes: Mapping[str, Any]) -> ClipReport:
    """`dataclasses.replace` in a tenth of the time: a frozen ``__init__`` sets the fields one by one."""
    made = ClipReport.__new__(ClipReport)
    vars(made).update(vars(report), **changes)
    return made


def left_out(xp: Namespace, report: ClipReport, flag: Array | bool) -> ClipReport:
    """The report of a step and its parts, turned into that of a skipped step if a flag is set.

    The threshold becomes NaN, and nothing held it, unless the report itself says that the step is skipped by
    that threshold.

    Args:
        xp: namespace of its arrays.
        report: the report of the step as if it was not skipped.
        flag: 0-d, or True if it is known.
    """
    parts = {key: left_out(xp, part, flag) for key, part in report.parts.items()}
    exceeded = xp.full((), xp.nan)
    if report.skipped is not False:
        exceeded = xp.where(report.skipped, report.threshold, exceeded)
    if flag is True:
        return changed(
            report,
            {
                "norm_after": xp.full((), 0.0),
                "threshold": exceeded,
                "clipped": xp.full((), 0.0) > 0,
                "clip_fraction": xp.full((), 0.0),
                "direction": None,
                "skipped": True,
                "parts": parts,
                "held": _held_unless(xp, report, flag),
            },
        )
    zero = xp.zeros(())
    return changed(
        report,
        {
            "norm_after": xp.where(flag, zero, report.norm_after),
            "threshold": xp.where(flag, exceeded, report.threshold),
            "clipped": report.clipped & ~flag,
            "clip_fraction": xp.where(flag, zero, report.clip_fraction),
            "skipped": flag,
            "parts": parts,
            "held": _held_unless(xp, report, flag),
        },
    )


def settled(report: ClipReport) -> ClipReport:
    """The report with all that it would compute when it is read."""
    changes: dict[str, Any] = {"parts": {key: settled(part) for key, part in report.parts.items()}}
    return changed(report, changes | {"held": dict(report.held)})


def _held_unless(xp: Namespace, report: ClipReport, flag: Array | bool) -> Mapping[str, Array]:
    """What held the threshold; nothing where the step is left out, but by this report itself."""

    def shares() -> list[Array]:
        stays: Array = report.skipped
        if flag is not True:
            stays = ~flag if stays is False else ~flag | stays
        if stays is False:
            return [0.0 * share for share in report.held.values()]
        return [xp.where(stays, share, 0.0 * share) for share in report.held.values()]

    return Held(tuple(report.held), shares) if report.held else report.held
