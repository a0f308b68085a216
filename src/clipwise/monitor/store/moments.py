"""Recorded rows grouped by step, as rules and exporters receive them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby

from clipwise.monitor.store.naming import joined
from clipwise.monitor.store.records import Rows


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known about one step of one source, as plain numbers.

    Attributes:
        step: number of the step.
        source: the clipper that the values belong to if there are several; "" otherwise.
        values: values by name: ``"loss"``, ``"clipwise/norm"``, ``"clipwise/threshold"``, ... During a
            training a step may come in several moments: values that are logged later come in one of their
            own.
        layers: the norm of each parameter's gradient, in steps in which it was recorded.
        rank: rank of the process.
        time: when the first value was recorded, in seconds since the epoch; 0 if unknown.
    """

    step: int
    source: str
    values: Mapping[str, float]
    layers: Mapping[str, float] = field(default_factory=dict)
    rank: int = 0
    time: float = 0.0

    @property
    def worst(self) -> str | None:
        """The first parameter whose gradient is NaN or Inf, if known."""
        return next(
            (name for name, norm in self.layers.items() if not -float("inf") < norm < float("inf")), None
        )


def moments_of(rows: Iterable[Rows], rank: int = 0) -> list[Moment]:
    """Rows, in the order in which they were recorded, as moments in the order of their steps.

    All rows of a step and a source become one moment. If a step was repeated, as after resuming from a
    checkpoint, it becomes several.

    >>> import numpy as np
    >>> some = [Rows("steps", ("time", "loss"), np.array([[1, 9.0, 0.5], [2, 9.1, 0.4]]))]
    >>> [(moment.step, moment.values) for moment in moments_of(some)]
    [(1, {'loss': 0.5}), (2, {'loss': 0.4})]
    """
    found: dict[tuple[int, str], _Turns] = {}
    for some in rows:
        source, names, layers = some.source, some.names, some.kind == "layers"
        for number, *numbers in some.data.tolist():
            named = dict(zip(names, numbers, strict=True))
            time = 0.0 if layers else named.pop("time", 0.0)
            turns = found.get((int(number), source))
            if turns is None:
                turns = found[int(number), source] = _Turns()
            turns.take(named, layers, time)
    made = [
        (step, turn, Moment(step, source, draft.values, draft.layers, rank, draft.time))
        for (step, source), turns in found.items()
        for turn, draft in enumerate(turns.drafts)
    ]
    made.sort(key=lambda one: one[:2])
    return [moment for *_, moment in made]


def steps_of(moments: Iterable[Moment]) -> Iterator[Moment]:
    """One moment per step for all sources, whose names become prefixes of the values and parameters.

    If a step has several values of a name, the last one counts; its time is that of the first moment.

    Args:
        moments: in the order of their steps.

    >>> both = [Moment(1, "a", {"loss": 0.5}), Moment(1, "b", {"loss": 0.4})]
    >>> [moment.values for moment in steps_of(both)]
    [{'a/loss': 0.5, 'b/loss': 0.4}]
    """
    for step, parts in groupby(moments, key=lambda moment: moment.step):
        values: dict[str, float] = {}
        layers: dict[str, float] = {}
        rank, time = 0, 0.0
        for one in parts:
            values |= {joined(one.source, name): value for name, value in one.values.items()}
            layers |= {joined(one.source, name): norm for name, norm in one.layers.items()}
            rank, time = one.rank, time or one.time
        yield Moment(step, "", values, layers, rank, time)


@dataclass(slots=True)
class _Draft:
    """A moment, as far as its rows are there."""

    values: dict[str, float] = field(default_factory=dict)
    layers: dict[str, float] = field(default_factory=dict)
    time: float = 0.0


class _Turns:
    """The moments of one step and source: one, unless something came again."""

    __slots__ = ("_free", "drafts")

    def __init__(self) -> None:
        self.drafts = [_Draft()]
        self._free: tuple[dict[str, int], dict[str, int]] | None = None  # by name: the first without it

    def take(self, named: dict[str, float], layers: bool, time: float) -> None:
        """A further row, into the first moment that has none of its names."""
        first = self.drafts[0]
        if self._free is None and not (first.layers if layers else first.values).keys().isdisjoint(named):
            self._free = dict.fromkeys(first.values, 1), dict.fromkeys(first.layers, 1)
        draft = first
        if self._free is not None:
            free = self._free[layers]
            turn = max((free.get(name, 0) for name in named), default=0)
            free.update(dict.fromkeys(named, turn + 1))
            if turn == len(self.drafts):
                self.drafts.append(_Draft())
            draft = self.drafts[turn]
        (draft.layers if layers else draft.values).update(named)
        draft.time = draft.time or time
