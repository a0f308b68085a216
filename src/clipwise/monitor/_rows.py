"""What the training handed over, turned into rows: done in the background."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from clipwise.monitor._numbers import floats, vector
from clipwise.monitor.store import Rows
from clipwise.report import METRICS, ClipReport

__all__ = ["Item", "Logged", "Reported", "Table", "Usual", "read", "without_unreadable"]

FIELDS = (*METRICS, "skipped", "at_bound")


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


Item = Reported | Logged


@dataclass
class Table:
    """Rows of one kind and of the same columns, in the order in which they came."""

    kind: str
    names: tuple[str, ...]
    rows: list[Any] = field(default_factory=list)

    def made(self) -> Rows:
        return Rows(self.kind, self.names, np.asarray(self.rows, dtype=np.float64))


class Usual:
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


def read(items: Sequence[Item], usual: Usual) -> list[Rows]:
    """The rows that some items make; this waits for their devices."""
    tables: dict[tuple[str, tuple[str, ...]], Table] = {}
    items = [_on_host(item) for item in items]
    parts = [_parts(item) for item in items]
    numbers = iter(_in_turn(floats([value for _, values in parts for value in values]), parts))
    for item, (names, _) in zip(items, parts, strict=True):
        values = next(numbers)
        _add(tables, "steps", ("time", *names), [item.step, item.time, *values])
        if isinstance(item, Reported) and _has_layers(item.report):
            prefix = f"{item.source}/" if item.source else ""
            found = dict(zip(names, values, strict=True))
            bad = found[f"{prefix}clipwise/nonfinite"] > 0
            if usual.exceeds(item.source, found[f"{prefix}clipwise/norm"]) or item.layers or bad:
                own = tuple(prefix + name for name in item.report.names)
                _add(tables, "layers", own, [item.step, *vector(item.report.tensor_norms)])
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
        read([item], Usual())
    except Exception as error:
        tell(f"{name} of step {item.step:,}", error)
        return False
    return True


def _on_host(item: Item) -> Item:
    if isinstance(item, Logged) or isinstance(item.report, ClipReport):
        return item
    return replace(item, report=item.report.on_host())


def _has_layers(report: ClipReport) -> bool:
    """Whether the norms of gradients are in it: layers are not those of weights."""
    return report.tensor_norms is not None and bool(report.names) and report.at_bound is None


def _parts(item: Item) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """The names of an item's values, and the values."""
    if isinstance(item, Logged):
        return item.names, item.values
    prefix = f"{item.source}/" if item.source else ""
    known = [(name, value) for name in FIELDS if (value := getattr(item.report, name)) is not None]
    names = [f"{prefix}clipwise/{name}" for name, _ in known] + [prefix + name for name, _ in item.extra]
    return tuple(names), (*(value for _, value in known), *(value for _, value in item.extra))


def _in_turn(numbers: Any, parts: Iterable[tuple[tuple[str, ...], Any]]) -> Iterator[list[float]]:
    start, flat = 0, numbers.tolist()
    for names, _ in parts:
        yield flat[start : start + len(names)]
        start += len(names)


def _add(
    tables: dict[tuple[str, tuple[str, ...]], Table], kind: str, names: tuple[str, ...], row: list[float]
) -> None:
    table = tables.get((kind, names))
    if table is None:
        table = tables[kind, names] = Table(kind, names)
    table.rows.append(row)
