"""The interface of exporters, and what they share: loading their tool, and protecting existing files."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from clipwise import extras
from clipwise.errors import ArgumentError
from clipwise.monitor.store import Alert, Moment

Taken: TypeAlias = Literal["number", "refuse", "replace"]
"""What to do where something is already: write to ``name-2`` beside it, raise, or take its place."""


@runtime_checkable
class Exporter(Protocol):
    """Receives a run while it is recorded. All calls come from one thread: ``begin`` first, ``close`` last.

    An exporter that also has the method ``expect`` must know all columns before the first step. A `Monitor`
    does not call it during the run, but exports the recording to it at the end.
    """

    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None:
        """Begin a run: name, facts, and start in seconds since the epoch (None: now)."""

    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert] = ()) -> None:
        """Write steps, in order, and new alerts."""

    def close(self, status: str = "finished") -> None:
        """End the run: ``"finished"``, ``"diverged"``, ``"stopped"``, ``"failed"`` or ``"lost"``."""


@dataclass(frozen=True)
class Option:
    """An option of ``clipwise export``, as one exporter understands it.

    Attributes:
        parameter: the parameter of the exporter's class that it sets.
        help: its meaning for this exporter.
        choices: for a flag, the value without and with it; None: it takes a value.
        metavar: placeholder for the value.
    """

    parameter: str
    help: str
    choices: tuple[str, str] | None = None
    metavar: str = "PATH"


class Tool(ABC):
    """An exporter of clipwise, as the command line describes it.

    Attributes:
        name: name on the command line.
        extra: extra of clipwise that installs what it needs; None: nothing.
        options: options on the command line, by flag.
        lacks: why it does not have an option of others, by flag; ``{}`` stands for its name.
        place: where to look for the run, for people, once it has begun.
    """

    name: ClassVar[str]
    extra: ClassVar[str | None] = None
    options: ClassVar[Mapping[str, Option]] = MappingProxyType({})
    lacks: ClassVar[Mapping[str, str]] = MappingProxyType({})
    place: Any = None

    @abstractmethod
    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None: ...

    @abstractmethod
    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert] = ()) -> None: ...

    @abstractmethod
    def close(self, status: str = "finished") -> None: ...

    def hint(self) -> str:
        """The command that shows the run, "" where there is none."""
        return ""

    @classmethod
    def load(cls, module: str) -> ModuleType:
        """A module of the tool; where it is not installed, the error says how to install it."""
        return extras.load(module, purpose=f"the export to {cls.name}", extra=cls.extra or cls.name)


A_RUN_EACH = MappingProxyType({"--force": "has nothing to replace: each export to {} is a run of its own"})
"""What tools lack that keep runs side by side."""


def is_stored(exporter: Any) -> bool:
    """Whether an exporter gets a run at its end, since it has to know all columns first."""
    return hasattr(exporter, "expect")


def as_taken(value: Any) -> Taken:
    """The value, if it is one of the three."""
    if value not in ("number", "refuse", "replace"):
        raise ArgumentError(f"taken must be 'number', 'refuse' or 'replace', got {value!r}")
    return value  # type: ignore[no-any-return]


def file_name(run: str) -> str:
    """A run's name as a file or folder name, valid on any system and without path separators.

    >>> file_name("../lstm: a/b")
    'lstm_a_b'
    """
    return re.sub(r"[^\w.+=-]+", "_", run).strip("._-")[:100] or "run"


def vacant(path: Path, taken: Taken, is_taken: Callable[[Path], bool], suffix: str = "") -> Path:
    """The path, or if it exists, the path with a number before its suffix.

    Raises:
        ArgumentError: the path exists, and ``taken`` is ``"refuse"``.
    """
    if taken == "replace" or not is_taken(path):
        return path
    if taken == "refuse":
        raise ArgumentError(f"{str(path)!r} already exists: name another place, or say force (--force)")
    number = 2
    while is_taken(other := path.with_name(f"{path.name.removesuffix(suffix)}-{number}{suffix}")):
        number += 1
    return other


class Renamer:
    """Names in the form that a tool accepts; names that would become the same are numbered.

    >>> names = Renamer(r"[^a-z]")
    >>> names["a?"], names["a!"], names["a?"]
    ('a_', 'a_-2', 'a_')
    """

    def __init__(self, forbidden: str, taken: Iterable[str] = ()) -> None:
        self._forbidden, self._known = re.compile(forbidden), dict[str, str]()
        self._given = set(taken)

    def __getitem__(self, name: str) -> str:
        found = self._known.get(name)
        if found is None:
            found = plain = self._forbidden.sub("_", name)
            number = 2
            while found in self._given:
                found, number = f"{plain}-{number}", number + 1
            self._known[name] = found
            self._given.add(found)
        return found
