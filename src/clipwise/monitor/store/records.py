"""The parts of a recording: runs, rows of steps, alerts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Level: TypeAlias = Literal["info", "warning", "critical"]


@dataclass(frozen=True)
class Run:
    """One run of a training, with all its processes.

    Attributes:
        id: its number in the file.
        name: its name; several runs may have the same.
        started: start in seconds since the epoch.
        status: ``"running"``, ``"finished"``, ``"diverged"`` (finished, but it had broken down before),
            ``"stopped"`` (by a rule or Ctrl-C), ``"failed"`` (by an exception), or ``"lost"``: its processes
            ended without a word.
        seen: when a process last reported, in seconds since the epoch.
        steps: the largest step number.
        ranks: ranks of the processes that wrote, ascending.
        command: the command line.
        clip: the clip, or that of single examples with ``per example`` after it; None if gradients were only
            measured.
        facts: further information, such as versions. ``"sweep"``, ``"notes"`` and ``"unnamed"`` (the name of
            the source "" if there are others) have a meaning.
        note: what its processes reported at the end, such as data that could not be written.
    """

    id: int
    name: str
    started: float
    status: str
    seen: float
    steps: int
    ranks: tuple[int, ...]
    command: str | None = None
    clip: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def sweep(self) -> str:
        """The name that the runs of a search or comparison share, "" for none: ``facts={"sweep": ...}``."""
        return str(self.facts.get("sweep") or "")

    def title(self, source: str) -> str:
        """The name of a source for people: the source "" has none, but its model may be known."""
        return source or str(self.facts.get("unnamed") or "the one without a name")

    @property
    def notes(self) -> str:
        """The user's notes, see `annotate`."""
        return str(self.facts.get("notes") or "")


@dataclass(frozen=True)
class Series:
    """One number per step, ``(n,)`` each; NaN and Inf are measured values.

    Attributes:
        steps: step numbers, int64, ascending.
        values: float64.
    """

    steps: NDArray[np.int64]
    values: Floats


@dataclass(frozen=True)
class Layers:
    """The norm of each parameter's gradient in some steps.

    Attributes:
        steps: ``(n,)``, int64.
        names: names of the m parameters.
        norms: ``(n, m)``, float64; NaN where `absent`.
        absent: ``(n, m)``, True where nothing was recorded.
    """

    steps: NDArray[np.int64]
    names: tuple[str, ...]
    norms: Floats
    absent: NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Rows of one source: ``step``, then one column per name.

    Attributes:
        kind: ``"steps"``: values by name, including ``"time"`` in seconds since the epoch; or ``"layers"``:
            the norm of each parameter's gradient.
        names: names of the columns after the first.
        data: ``(n, 1 + len(names))``, float64.
        source: the clipper that the values belong to if there are several; "" otherwise.
    """

    kind: str
    names: tuple[str, ...]
    data: Floats
    source: str = ""


@dataclass(frozen=True)
class Alert:
    """A problem that a rule has found.

    Attributes:
        rule: name of the rule, such as ``"loss_nonfinite"``.
        level: ``"info"``, ``"warning"`` or ``"critical"``.
        step: the step in which it was found.
        seen: one sentence: what was seen.
        why: one sentence: why it matters.
        advice: one or two sentences: what to try.
        rank: rank of the process.
        time: seconds since the epoch.
        source: the clipper that it is about if there are several; "" otherwise.
    """

    rule: str
    level: Level
    step: int
    seen: str
    why: str
    advice: str
    rank: int = 0
    time: float = 0.0
    source: str = ""

    def __str__(self) -> str:
        return f"{self.rule} ({self.level}): {self.seen} {self.why} {self.advice}"
