"""What a recording is made of: runs, the rows of their steps, alerts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Level: TypeAlias = Literal["info", "warning", "critical"]


@dataclass(frozen=True)
class Run:
    """One run of a training, of all its processes.

    Attributes:
        id: its number in the file.
        name: what people call it; several may be called the same.
        started: seconds since the epoch.
        status: ``"running"``, ``"finished"``, ``"diverged"`` (it came to its end, but broke down before),
            ``"stopped"`` (by a rule, or with Ctrl-C), ``"failed"`` (an exception ended it), or ``"lost"``: no
            process of it is there any more, and none said why.
        seen: when something was last heard of it, in seconds since the epoch.
        steps: the largest number of a step.
        ranks: of the processes that wrote, ascending.
        command: the command line.
        clip: what was done to the gradients, None where they were only measured.
        facts: anything else, such as versions; ``"sweep"``, ``"notes"`` and ``"unnamed"`` (what the
            source "" is called, where there are others) have a meaning.
        note: what its processes had to say at the end, such as what could not be written.
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
        """What the runs of one search or comparison have in common, "" for none: ``facts={"sweep": ...}``."""
        return str(self.facts.get("sweep") or "")

    def title(self, source: str) -> str:
        """What people call a source: "" has no name of its own, but may be known by its model."""
        return source or str(self.facts.get("unnamed") or "the one without a name")

    @property
    def notes(self) -> str:
        """What people wrote to it, see `annotate`."""
        return str(self.facts.get("notes") or "")


@dataclass(frozen=True)
class Series:
    """One number a step, ``(n,)`` each; NaN and Inf are what was measured.

    Attributes:
        steps: numbers of the steps, int64, ascending.
        values: float64.
    """

    steps: NDArray[np.int64]
    values: Floats


@dataclass(frozen=True)
class Layers:
    """The norm of each parameter's gradient at some steps.

    Attributes:
        steps: ``(n,)``, int64.
        names: of the m parameters.
        norms: ``(n, m)``, float64. Where `absent`, NaN.
        absent: ``(n, m)``, whether nothing was recorded of it at that step.
    """

    steps: NDArray[np.int64]
    names: tuple[str, ...]
    norms: Floats
    absent: NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """Rows of one source: ``step`` and then one column a name.

    Attributes:
        kind: ``"steps"``, values by name, among them the ``"time"`` in seconds since the epoch; or
            ``"layers"``, the norm of each parameter's gradient.
        names: of the columns after the first.
        data: ``(n, 1 + len(names))``, float64.
        source: whose they are, where several clippers are recorded; "" otherwise.
    """

    kind: str
    names: tuple[str, ...]
    data: Floats
    source: str = ""


@dataclass(frozen=True)
class Alert:
    """Something that a rule saw.

    Attributes:
        rule: the name of the rule, such as ``"loss_nonfinite"``.
        level: ``"info"``, ``"warning"`` or ``"critical"``.
        step: at which it was seen.
        seen: one sentence: what was seen.
        why: one sentence: why it matters.
        advice: one sentence or two: what to try.
        rank: of the process that saw it.
        time: seconds since the epoch.
        source: whose values it is about, where several clippers are recorded; "" otherwise.
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
