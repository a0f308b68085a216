"""What the training handed over, turned into rows: done in the background."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import compress
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from clipwise.functional.examples.report import ExampleReport
from clipwise.monitor._numbers import floats, vector
from clipwise.monitor.store import FIELDS, HELD, NORM, PREFIX, Rows, part_of
from clipwise.report import ClipReport

NONFINITE = f"{PREFIX}nonfinite"
_of_report = attrgetter(*(name.removeprefix(PREFIX) for name in FIELDS))
"""The values of a report, in the order of their names."""


class Reported(NamedTuple):
    """A step of a clipper.

    Attributes:
        step, time: its number; seconds since the epoch.
        report: a `ClipReport`, whose values may be on a device, or what has ``on_host()``, which gives one.
        source: whose step it was, where several are recorded; "" otherwise.
        layers: whether the norm of each parameter is to be recorded.
        extra: further values of the step, by name.
        examples: what is known of the examples of its batch.
    """

    step: int
    time: float
    report: Any
    source: str = ""
    layers: bool = False
    extra: tuple[tuple[str, Any], ...] = ()
    examples: ExampleReport | None = None


class Logged(NamedTuple):
    """What the user has to say of a step."""

    step: int
    time: float
    names: tuple[str, ...]
    values: tuple[Any, ...]
    source: str = ""


class Examined(NamedTuple):
    """A step that clipped the gradient of each example.

    Attributes:
        report: an `ExampleReport`, whose values may be on a device.
        numbered: whether its number is that of the clipper's step, because someone has said so.
    """

    step: int
    time: float
    report: ExampleReport
    source: str = ""
    numbered: bool = False


Item = Reported | Logged | Examined


@dataclass
class Table:
    """Rows of one kind, source and the same columns, in the order in which they came."""

    kind: str
    source: str
    names: tuple[str, ...]
    rows: list[Any] = field(default_factory=list)

    def made(self) -> Rows:
        return Rows(self.kind, self.names, np.asarray(self.rows, dtype=np.float64), self.source)


class SpikeDetector:
    """Tells norms that are far above those before them: of such steps every layer is kept."""

    FAR = 5.0
    """Times the usual norm, an exponential average of the logarithms."""

    def __init__(self) -> None:
        self._logs: dict[str, float] = {}

    def exceeds(self, source: str, norm: float) -> bool:
        """Whether a norm does, which then is one of those before the next."""
        if not 0.0 < norm < math.inf:
            return False
        log = math.log(norm)
        usual = self._logs.get(source, log)
        self._logs[source] = usual + 0.1 * (log - usual)
        return log > usual + math.log(self.FAR)


def read(items: Sequence[Item], spikes: SpikeDetector) -> list[Rows]:
    """The rows that some items make; this waits for their devices."""
    tables: dict[tuple[str, str, tuple[str, ...]], Table] = {}
    found = [each for item in items for each in _values_of(item)]
    numbers = floats([value for each in found for value in each.values]).tolist()
    start = 0
    for item, source, names, values, report in found:
        end = start + len(values)
        row, start = [item.step, item.time, *numbers[start:end]], end
        _add(tables, "steps", source, ("time", *names), row)
        if report is not None and _has_layers(report):
            norm, bad = row[2 + names.index(NORM)], row[2 + names.index(NONFINITE)]
            if spikes.exceeds(source, norm) or item.layers or bad > 0:  # type: ignore[union-attr]
                norms = vector(report.tensor_norms).tolist()
                _add(tables, "layers", source, tuple(report.names), [item.step, *norms])
    return [table.made() for table in tables.values()]


def without_unreadable(items: Sequence[Item], tell: Callable[[str, Exception], None]) -> list[Item]:
    """What `read` can read of some items: of what was logged single values go, of a clipper's step all.

    Args:
        items: of which `read` could not read something.
        tell: is told what it was, and why.
    """
    kept: list[Item] = []
    for item in items:
        if not isinstance(item, Logged):
            kept += [item] if _is_readable(item, "a report", tell) else []
            continue
        good = {
            name: value
            for name, value in zip(item.names, item.values, strict=True)
            if _is_readable(item._replace(names=(name,), values=(value,)), name, tell)
        }
        if good:
            kept.append(item._replace(names=tuple(good), values=tuple(good.values())))
    return kept


def _is_readable(item: Item, name: str, tell: Callable[[str, Exception], None]) -> bool:
    try:
        read([item], SpikeDetector())
    except Exception as error:
        tell(f"{name} of step {item.step:,}", error)
        return False
    return True


class _Values(NamedTuple):
    """What makes one row: of an item, or of a part of it as one of a source of its own."""

    item: Item
    source: str
    names: tuple[str, ...]
    values: Sequence[Any]
    report: ClipReport | None = None


def _values_of(item: Item) -> Iterator[_Values]:
    """The values of an item, and what was done to each part of `clipwise.by_name`."""
    if isinstance(item, Logged):
        yield _Values(item, item.source, item.names, item.values)
        return
    if isinstance(item, Examined):
        metrics = item.report.metrics()
        yield _Values(item, item.source, tuple(metrics), tuple(metrics.values()))
        return
    report = item.report if isinstance(item.report, ClipReport) else item.report.on_host()
    names, values = _known(report)
    for name, value in item.extra:
        names, values = (*names, name), (*values, value)
    yield _Values(item, item.source, names, values, report)
    if not report.parts or report.at_bound is not None:
        return
    if list(report.parts) == [str(place) for place in range(len(report.parts))]:
        return  # of a chain: one after the other on the same gradients
    for pattern, part in report.parts.items():  # layers are those of the whole
        yield _Values(item, part_of(item.source, pattern), *_known(part))


def _known(report: ClipReport) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The names of the values that a report has, and the values."""
    values = _of_report(report)
    there = tuple([value is not None for value in values])
    return _names(there, tuple(report.held)), (*compress(values, there), *report.held.values())


@cache
def _names(there: tuple[bool, ...], reasons: tuple[str, ...]) -> tuple[str, ...]:
    return (*compress(FIELDS, there), *[HELD + reason for reason in reasons])


def _has_layers(report: ClipReport) -> bool:
    """Whether the norms of gradients are in it: layers are not those of weights."""
    return report.tensor_norms is not None and bool(report.names) and report.at_bound is None


def _add(
    tables: dict[tuple[str, str, tuple[str, ...]], Table],
    kind: str,
    source: str,
    names: tuple[str, ...],
    row: list[float],
) -> None:
    table = tables.get((kind, source, names))
    if table is None:
        table = tables[kind, source, names] = Table(kind, source, names)
    table.rows.append(row)
