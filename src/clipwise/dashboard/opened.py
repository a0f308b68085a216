"""A file that is opened when it exists and reopened when it is replaced; one query at a time."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from clipwise.errors import StoreError
from clipwise.monitor.store import Store, is_settled

T = TypeVar("T")
READY = "ready"


@dataclass(frozen=True)
class State:
    """The state of the file.

    Attributes:
        kind: ``"ready"``, ``"missing"``, ``"empty"`` or ``"broken"``.
        message: one sentence if it is not ready.
    """

    kind: str = READY
    message: str = ""


class Unavailable(Exception):
    """The file cannot be read at the moment; `state` says why."""

    def __init__(self, state: State) -> None:
        super().__init__(state.message)
        self.state = state


class Opened:
    """One file that is read while it is being written, replaced, damaged or missing.

    Args:
        path: the file.
        dropped: called when what was read of it is no longer valid.
    """

    def __init__(self, path: Path, dropped: Callable[[], object] = lambda: None) -> None:
        self._path, self._dropped = path, dropped
        self._lock = threading.RLock()
        self._store: Store | None = None
        self._file: tuple[int, int, bool] | None = None

    def close(self) -> None:
        with self._lock:
            self._drop()

    def ask(self, read: Callable[[Store], T]) -> T:
        """The result of a function of the opened file, from any thread.

        Raises:
            Unavailable: the file cannot be read at the moment.
        """
        with self._lock:
            try:
                return read(self._opened())
            except (StoreError, OSError) as error:
                self._drop()
                raise Unavailable(state_of(self._path, error)) from error
            except (ValueError, OverflowError) as error:  # numbers in the file that no writer has put there
                raise Unavailable(State("broken", f"{str(self._path)!r} is damaged: {error}")) from error

    def _opened(self) -> Store:
        file = identity(self._path)
        if self._store is None or file != self._file:
            self._drop()
            self._store, self._file = Store(self._path), file
        return self._store

    def _drop(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = None
        self._dropped()


def state_of(path: Path, error: Exception | None = None) -> State:
    """The state that corresponds to an error of reading."""
    if error is None:
        return State()
    if not os.path.exists(path):
        return State("missing", f"There is no file {str(path)!r} yet.")
    if "nothing has been recorded yet" in str(error):
        return State("empty", f"{str(path)!r} exists, but nothing has been recorded in it yet.")
    return State("broken", f"{error}.".replace("..", "."))


def identity(path: Path) -> tuple[int, int, bool] | None:
    """What identifies the file, and whether it can change; None if there is no file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, is_settled(path)
