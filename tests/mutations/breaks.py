"""What a break is, and all of them: the data lies in `tests.mutations.rooms`, one file a room."""

import hashlib
import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.mutations import rooms

__all__ = ["Break", "every"]


@dataclass(frozen=True)
class Break:
    """One line that is wrong.

    Attributes:
        name: what is wrong, in a few words.
        file: which file, from the root of the tree.
        old, new: what stands there once, and what is put in its place.
        tests: which tests are to see it, as pytest is told: a part of what ``make test`` runs.
        env: environment variables that those tests want.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    env: Mapping[str, str] = field(default_factory=dict)

    def applied(self, root: Path) -> str | None:
        """The text of the file with the break in it; None where the old text is not there exactly once."""
        path = root / self.file
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return text.replace(self.old, self.new) if text.count(self.old) == 1 else None

    def key(self, root: Path) -> str:
        """Of what a result depends on first of all: the break, its file, the files of its tests."""
        found = hashlib.sha256(repr(self).encode())
        for name in (self.file, *(word.partition("::")[0] for word in self.tests.split())):
            if (root / name).is_file():
                found.update((root / name).read_bytes())
        return found.hexdigest()


def every() -> dict[str, list[Break]]:
    """The breaks of each room."""
    names = sorted(module.name for module in pkgutil.iter_modules(rooms.__path__))
    return {name: importlib.import_module(f"tests.mutations.rooms.{name}").BREAKS for name in names}
