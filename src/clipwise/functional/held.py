"""What held the thresholds of a step: by reason the share of the groups, computed where someone reads it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clipwise.namespace import Array, Namespace
from clipwise.report import ClipReport
from clipwise.thresholds import Conditions

__all__ = ["Held", "held_by", "held_by_none", "held_by_number", "held_by_parts"]


class Held(Mapping[str, Array]):
    """Shares by reason, as `clipwise.ClipReport.held` has them; the step itself pays nothing for them.

    Args:
        reasons: their names.
        shares: gives a 0-d share for each; called once, where the first is read.
    """

    def __init__(self, reasons: Sequence[str], shares: Callable[[], Sequence[Array]]) -> None:
        self._reasons = tuple(reasons)
        self._shares: Callable[[], Sequence[Array]] | None = shares
        self._found: dict[str, Array] = {}

    def _read(self) -> dict[str, Array]:
        shares = self._shares
        if shares is not None:  # in this order: another thread may read at the same moment
            self._found = dict(zip(self._reasons, shares(), strict=True))
            self._shares = None  # and what it was computed from
        return self._found

    def __getitem__(self, reason: str) -> Array:
        return self._read()[reason]

    def __iter__(self) -> Iterator[str]:
        return iter(self._reasons)

    def __len__(self) -> int:
        return len(self._reasons)

    def __repr__(self) -> str:
        return repr(self._read())

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self._read(),)


def held_by(
    xp: Namespace,
    reasons: Sequence[str],
    conditions: Conditions,
    gather: Callable[[Array], Array] | None = None,
) -> Mapping[str, Array]:
    """The shares of the groups of one clip.

    Args:
        xp: of the arrays.
        reasons: of its policy.
        conditions: gives for each reason but the last whether it is that of each group, unless one before is.
        gather: gives of the groups of all slots those that count; None: all do.
    """

    def shares() -> list[Array]:
        found = conditions()
        if gather is not None:
            found = [gather(one) if len(one.shape) else one for one in found]
        first, *others = found
        counted, rest = [_share(xp, first)], ~first
        for condition in others:
            counted.append(_share(xp, rest & condition))
            rest = rest & ~condition
        return [*counted, _share(xp, rest)]

    return Held(reasons, shares)


def held_by_number(xp: Namespace, reasons: Sequence[str]) -> Mapping[str, Array]:
    """The share of the one reason that a number has, beside clips of its chain that have several."""
    return Held(reasons, lambda: [xp.full((), 1.0)]) if reasons else {}


def held_by_none(reports: Sequence[ClipReport], zero: Array) -> Mapping[str, Array]:
    """Shares of 0, by every reason of some reports."""
    return dict.fromkeys((reason for report in reports for reason in report.held), zero)


def held_by_parts(
    xp: Namespace, parts: Sequence[ClipReport], threshold: Array, shares: Sequence[float] | None
) -> Mapping[str, Array]:
    """The shares of a whole; reasons of one name in several parts are one.

    Args:
        xp: of the arrays.
        parts: the reports of its parts.
        threshold: of the whole.
        shares: how much of everything each part saw; None: all of it, one after the other. Then the first
            part with that threshold is what held it.
    """
    reasons = tuple(held_by_none(parts, None))
    if not reasons:
        return {}

    def computed() -> list[Array]:
        sums = dict.fromkeys(reasons, xp.zeros(()))
        rest = xp.full((), 1.0)
        for place, part in enumerate(parts):
            if shares is None:
                weight = rest * xp.astype(part.threshold == threshold, xp.float_dtype)
                rest = rest - weight
            else:
                weight = shares[place]
            for reason, share in part.held.items():
                sums[reason] = sums[reason] + weight * share
        return list(sums.values())

    return Held(reasons, computed)


def _share(xp: Namespace, flags: Array) -> Array:
    numbers = xp.astype(flags, xp.float_dtype)
    return xp.sum(numbers) / max(1, numbers.shape[0]) if len(numbers.shape) else numbers
