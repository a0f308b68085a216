"""What the training handed over, turned into rows: done in the background."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clipwise.monitor._numbers import floats, vector
from clipwise.monitor.store import FIELDS, NORM, PREFIX, Rows, part_of
from clipwise.report import ClipReport

NONFINITE = f"{PREFIX}nonfinite"
OF_REPORT = tuple((name, name.removeprefix(PREFIX)) for name in FIELDS)
"""What a value is called, and the field of a report that holds it."""


@dataclass(frozen=True, slots=True)
class Reported:
    """A step of a clipper.

    Attributes:
        step, time: its number; seconds since the epoch.
        report: a `ClipReport`, whose values may be on a device, or what has ``on_host()``, which gives one.
        source: whose step it was, where several are recorded; "" otherwise.
        layers: whether the norm of each parameter is to be recorded.
        extra: further values of the step, by name.
    """

    step: int
    time: float
    report: Any
    source: str = ""
    layers: bool = False
    extra: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Logged:
    """What the user has to say of a step."""

    step: int
    time: float
    names: tuple[str, ...]
    values: tuple[Any, ...]
    source: str = ""


Item = Reported | Logged


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
    items = [each for item in items for each in _with_parts(_on_host(item))]
    parts = [_parts(item) for item in items]
    numbers = iter(_in_turn(floats([value for _, values in parts for value in values]), parts))
    for item, (names, _) in zip(items, parts, strict=True):
        values = next(numbers)
        _add(tables, "steps", item.source, ("time", *names), [item.step, item.time, *values])
        if isinstance(item, Reported) and _has_layers(item.report):
            found = dict(zip(names, values, strict=True))
            bad = found[NONFINITE] > 0
            if spikes.exceeds(item.source, found[NORM]) or item.layers or bad:
                norms = vector(item.report.tensor_norms)
                _add(tables, "layers", item.source, tuple(item.report.names), [item.step, *norms])
    return [table.made() for table in tables.values()]


def without_unreadable(items: Sequence[Item], tell: Callable[[str, Exception], None]) -> list[Item]:
    """What `read` can read of some items: of what was logged single values go, of a clipper's step all.

    Args:
        items: of which `read` could not read something.
        tell: is told what it was, and why.
    """
    kept: list[Item] = []
    for item in items:
        if isinstance(item, Reported):
            kept += [item] if _is_readable(item, "a report", tell) else []
            continue
        good = {
            name: value
            for name, value in zip(item.names, item.values, strict=True)
            if _is_readable(replace(item, names=(name,), values=(value,)), name, tell)
        }
        if good:
            kept.append(replace(item, names=tuple(good), values=tuple(good.values())))
    return kept


def _is_readable(item: Item, name: str, tell: Callable[[str, Exception], None]) -> bool:
    try:
        read([item], SpikeDetector())
    except Exception as error:
        tell(f"{name} of step {item.step:,}", error)
        return False
    return True


def _on_host(item: Item) -> Item:
    if isinstance(item, Logged) or isinstance(item.report, ClipReport):
        return item
    return replace(item, report=item.report.on_host())


def _with_parts(item: Item) -> Iterator[Item]:
    """A step, and what was done to each part of `clipwise.by_name` as one of a source of its own."""
    yield item
    if isinstance(item, Logged) or not item.report.parts or item.report.at_bound is not None:
        return
    if list(item.report.parts) == [str(place) for place in range(len(item.report.parts))]:
        return  # of a chain: one after the other on the same gradients
    for pattern, part in item.report.parts.items():
        report = replace(part, tensor_norms=None)  # layers are those of the whole
        yield Reported(item.step, item.time, report, part_of(item.source, pattern))


def _has_layers(report: ClipReport) -> bool:
    """Whether the norms of gradients are in it: layers are not those of weights."""
    return report.tensor_norms is not None and bool(report.names) and report.at_bound is None


def _parts(item: Item) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The names of an item's values, and the values."""
    if isinstance(item, Logged):
        return item.names, item.values
    known = [(name, value) for name, own in OF_REPORT if (value := getattr(item.report, own)) is not None]
    known += item.extra
    return tuple(name for name, _ in known), tuple(value for _, value in known)


def _in_turn(numbers: Any, parts: Iterable[tuple[tuple[str, ...], Any]]) -> Iterator[list[float]]:
    start, flat = 0, numbers.tolist()
    for names, _ in parts:
        yield flat[start : start + len(names)]
        start += len(names)


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
