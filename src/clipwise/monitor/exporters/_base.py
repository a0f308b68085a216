"""What an exporter is, and what all of them share: loading their tool, and not touching existing files."""

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
    """Takes a run as it is recorded. All calls come from one thread, ``begin`` first and ``close`` last.

    One that also has ``expect`` has to know all columns before the first step: a `Monitor` does not feed it
    while a run goes on, but exports the run to it at the end, out of the recording.
    """

    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None:
        """A run begins: its name, what is known of it, and when, in seconds since the epoch; None: now."""

    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert] = ()) -> None:
        """Steps, in their order, and alerts that are new."""

    def close(self, status: str = "finished") -> None:
        """The run has ended: ``"finished"``, ``"diverged"``, ``"stopped"``, ``"failed"`` or ``"lost"``."""


@dataclass(frozen=True)
class Option:
    """An option of ``clipwise export``, as one exporter understands it.

    Attributes:
        parameter: of the exporter's class that is given.
        help: what it means there.
        choices: of a flag, what is given without and with it; None: it takes a value.
        metavar: what stands for the value.
    """

    parameter: str
    help: str
    choices: tuple[str, str] | None = None
    metavar: str = "PATH"


class Tool(ABC):
    """An exporter of clipwise's own, with what the command line says of it.

    Attributes:
        name: on the command line.
        extra: of clipwise, which installs what it needs; None: nothing.
        options: on the command line, by flag.
        lacks: why it has no option that others have, by flag; ``{}`` stands for its name.
        place: where to look for the run once it has begun, for people.
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
    """A run's name as that of a file or folder, on any system and never outside of its own folder.

    >>> file_name("../lstm: a/b")
    'lstm_a_b'
    """
    return re.sub(r"[^\w.+=-]+", "_", run).strip("._-")[:100] or "run"


def vacant(path: Path, taken: Taken, is_taken: Callable[[Path], bool], suffix: str = "") -> Path:
    """The path, or a numbered one beside it where it is taken; the number stands before a file's suffix.

    Raises:
        ArgumentError: it is taken, and that is to be refused.
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
    """Names as a tool takes them; two that would become one are told apart by a number.

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
