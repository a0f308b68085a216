"""A thread that notices changes of the recording and counts them."""

import os
import threading
from pathlib import Path

from clipwise.dashboard.opened import State, identity, state_of
from clipwise.errors import StoreError
from clipwise.monitor.store import Store

EVERY = 0.1
"""Seconds between two looks; each is one number out of memory that is shared with the writers."""
LOOK_AT_STATUS = 20
"""Looks after which the runs are asked for, too: a process that dies writes nothing."""


class Watch:
    """Watches a file until it is stopped.

    Attributes:
        revision: increases with every change.
        state: state of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self.revision = 0
        self.state = State("missing", "Not looked at yet.")
        self._store: Store | None = None
        self._file: object = None
        self._seen: object = None
        self._looks = 0
        self._status: object = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clipwise-dashboard-watch", daemon=True)

    def start(self) -> None:
        self._look()
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10)

    def _run(self) -> None:
        while not self._ended.wait(EVERY):
            self._look()
        if self._store is not None:
            self._store.close()

    def _look(self) -> None:
        here = identity(self._path)
        error: Exception | None = None
        version, status = 0, self._status
        try:
            if self._store is None or here != self._file:
                self._close()
                self._store, self._file = Store(self._path), here
            version = self._store.version()
            if self._looks % LOOK_AT_STATUS == 0:
                status = [(run.id, run.status) for run in self._store.runs()]
        except (StoreError, OSError) as problem:
            self._close()
            error = problem
        self._looks += 1
        seen = (here, version, status, str(error))
        if seen != self._seen:
            self._seen, self._status = seen, status
            self.state = state_of(self._path, error)
            self.revision += 1

    def _close(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
