"""Other tools that are given the rows as they come: one that fails, or is slow, is no trouble of others."""

import threading
import time
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from clipwise.monitor._saying import say
from clipwise.monitor.store import Alert, Rows

__all__ = ["Feed", "close_all"]

WAITING = 1000
"""Portions that may wait for a tool; what comes while there are as many does not reach it."""

PATIENCE = 60.0
"""Seconds that all tools together have at the end."""


class Feed:
    """An exporter of `clipwise.monitor.exporters` in a thread of its own.

    Args:
        exporter: what is fed.
        run, facts: the run; told with the first rows.
    """

    def __init__(self, exporter: Any, run: str, facts: Mapping[str, Any]) -> None:
        self._exporter, self._run, self._facts = exporter, run, facts
        self._queue: SimpleQueue[tuple[Sequence[Rows], Sequence[Alert]] | str] = SimpleQueue()
        self._full = False
        # Begun at once: a script that never closes its monitor does so when no thread can begin any more.
        self._thread = threading.Thread(target=self._work, name="clipwise-feed", daemon=True)
        self._thread.start()

    def write(self, rows: Sequence[Rows], alerts: Sequence[Alert]) -> None:
        """Have something written. This does not wait, and raises nothing."""
        if not self._thread.is_alive() or not (rows or alerts):
            return
        if self._queue.qsize() < WAITING:
            self._queue.put((rows, alerts))
        elif not self._full:
            self._full = True
            self._say("is too slow for", "what it cannot take in time is only in the recording")

    def close(self, status: str) -> None:
        """Have it closed, after all that waits; this does not wait either."""
        self._queue.put(status)

    def wait(self, seconds: float) -> None:
        """Until it is closed."""
        if self._thread is threading.current_thread():
            return
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self._say("has not taken all of", "the recording has it", f" within {PATIENCE:g} seconds")

    def _work(self) -> None:
        began = False
        try:
            while not isinstance(given := self._queue.get(), str):
                if not began:
                    began = True
                    self._exporter.begin(self._run, self._facts)
                self._exporter.write(*given)
            if began:
                self._exporter.close(given)
        except Exception as error:
            self._say("gets no more of", f"{type(error).__name__}: {error}", ", and the training goes on")

    def _say(self, what: str, why: str, more: str = "") -> None:
        say(f"{type(self._exporter).__name__} {what} run {self._run!r}{more}: {why}")


def close_all(feeds: Sequence[Feed], status: str) -> None:
    """Close them side by side."""
    end = time.monotonic() + PATIENCE
    for feed in feeds:
        feed.close(status)
    for feed in feeds:
        feed.wait(end - time.monotonic())
