"""All runs of a recording at a glance: last loss, number of alerts, sweep."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from clipwise.errors import ArgumentError, did_you_mean
from clipwise.monitor.store.records import Run

Order: TypeAlias = Literal["started", "name", "loss", "steps", "alerts"]
ORDERS: tuple[str, ...] = get_args(Order)


@dataclass(frozen=True)
class Overview:
    """A run in a list of runs.

    Attributes:
        run: the run.
        loss: the last recorded loss, which may be NaN or Inf; None if there is none.
        alerts: number of alerts by level.
    """

    run: Run
    loss: float | None = None
    alerts: Mapping[str, int] = field(default_factory=dict)


def arranged(
    runs: Iterable[Overview],
    *,
    order: str = "started",
    reverse: bool = False,
    match: str = "",
    status: str | None = None,
) -> list[Overview]:
    """Select and sort runs.

    Args:
        runs: as `Store.overview` returns them.
        order: ``"started"`` (newest first), ``"name"``, ``"loss"`` (lowest first; NaN, Inf and none last),
            ``"steps"`` or ``"alerts"`` (most first).
        reverse: reverse the order; runs without a finite loss stay last.
        match: text that the name, the clip, the notes or the sweep must contain; case is ignored.
        status: status of the run.

    Raises:
        ArgumentError: the order is unknown.

    >>> a, b = (Overview(Run(i, name, i, "finished", i, 9, (0,)), loss)
    ...         for i, name, loss in ((1, "lstm", 0.5), (2, "gru", math.nan)))
    >>> [one.run.name for one in arranged([a, b])], [one.run.name for one in arranged([a, b], order="loss")]
    (['gru', 'lstm'], ['lstm', 'gru'])
    """
    if order not in ORDERS:
        raise ArgumentError(
            f"order must be one of {', '.join(map(repr, ORDERS))}, got {order!r}. "
            f"{did_you_mean(str(order), ORDERS)}"
        )
    wanted = match.casefold()
    found = [
        one
        for one in runs
        if status in (None, one.run.status)
        and any(wanted in (text or "").casefold() for text in _texts(one.run))
    ]
    found.sort(key=lambda one: one.run.started, reverse=True)
    if order == "name":
        found.sort(key=lambda one: one.run.name.casefold(), reverse=reverse)
    elif order == "loss":
        sign = -1.0 if reverse else 1.0
        known = [one for one in found if one.loss is not None and math.isfinite(one.loss)]
        unknown = [one for one in found if one.loss is None or not math.isfinite(one.loss)]
        found = sorted(known, key=lambda one: sign * (one.loss or 0.0)) + unknown
    elif order in ("steps", "alerts"):
        size = {"steps": lambda one: one.run.steps, "alerts": lambda one: sum(one.alerts.values())}[order]
        found.sort(key=size, reverse=not reverse)
    elif reverse:
        found.reverse()
    return found


def sweeps(runs: Iterable[Overview]) -> dict[str, list[Overview]]:
    """Runs by sweep, "" for runs without one; in order of first appearance."""
    there = list(runs)
    sizes = Counter(one.run.sweep for one in there)
    found: dict[str, list[Overview]] = {}
    for one in there:
        found.setdefault(one.run.sweep if sizes[one.run.sweep] > 1 else "", []).append(one)
    return found


def _texts(run: Run) -> tuple[str | None, ...]:
    return run.name, run.clip, run.notes, run.sweep
