"""What an exporter is, and what all of them share: loading their tool, and leaving what is there alone."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from clipwise import extras
from clipwise.errors import ArgumentError
from clipwise.monitor.store import Alert, Rows

__all__ = ["Exporter", "Names", "Taken", "as_taken", "file_name", "load", "vacant"]

Taken: TypeAlias = Literal["number", "refuse", "replace"]
"""What to do where something is already: write to ``name-2`` beside it, raise, or take its place."""


@runtime_checkable
class Exporter(Protocol):
    """Takes a run as it is recorded. All calls come from one thread, ``begin`` first and ``close`` last."""

    def begin(self, run: str, facts: Mapping[str, Any], started: float | None = None) -> None:
        """A run begins: its name, what is known of it, and when, in seconds since the epoch; None: now."""

    def write(self, rows: Sequence[Rows], alerts: Sequence[Alert] = ()) -> None:
        """Rows and alerts that are new."""

    def close(self, status: str = "finished") -> None:
        """The run has ended: ``"finished"``, ``"stopped"``, ``"failed"`` or ``"lost"``."""


def load(name: str, extra: str) -> ModuleType:
    """A tool's package; where it is not installed, the error says how to install it."""
    return extras.load(name, purpose=f"the export to {extra}", extra=extra)


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
        raise ArgumentError(f"{str(path)!r} is there already: name another place, or say force (--force)")
    number = 2
    while is_taken(other := path.with_name(f"{path.name.removesuffix(suffix)}-{number}{suffix}")):
        number += 1
    return other


class Names:
    """Names as a tool takes them; two that would become one are told apart by a number.

    >>> names = Names(r"[^a-z]")
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
