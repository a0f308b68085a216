"""Exporters of a run; one that fails or is slow does not affect the others."""

import threading
import time
from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from clipwise.monitor._warning import say
from clipwise.monitor.exporters._base import is_stored
from clipwise.monitor.exporters._export import export
from clipwise.monitor.store import Alert, Moment, Store

WAITING = 1000
"""Portions that may wait for a tool; what comes while there are as many does not reach it."""

PATIENCE = 60.0
"""Seconds that all tools together have at the end, for what waits for them."""


class Exports:
    """The exporters of one run: those that receive it while it goes on, and those that receive it at its end.

    Args:
        exporters: of `clipwise.monitor.exporters`, or the user's own.
        run, facts: the run; passed on with its first steps.
    """

    def __init__(self, exporters: Sequence[Any], run: str, facts: Mapping[str, Any]) -> None:
        self._run = run
        self._live = [ExportThread(one, run, facts) for one in exporters if not is_stored(one)]
        self._stored = [one for one in exporters if is_stored(one)]

    def __bool__(self) -> bool:
        """Whether any is fed as the run goes on."""
        return bool(self._live)

    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert]) -> None:
        for one in self._live:
            one.write(moments, alerts)

    def close(self, status: str, path: str, number: int | None) -> None:
        """Close the first kind in parallel; export the recorded run to the others.

        Args:
            status: status of the run.
            path, number: the recording and the run in it; None if nothing could be written.
        """
        end = time.monotonic() + PATIENCE
        for one in self._live:
            one.close(status)
        for one in self._live:
            one.wait(end - time.monotonic())
        if number is None:
            return
        for exporter in self._stored:
            try:
                with Store(path) as store:
                    if store.sources(number):
                        export(store, number, exporter)
            except Exception as error:
                say(f"{_name(exporter)} got nothing of run {self._run!r}: {type(error).__name__}: {error}")


class ExportThread:
    """An exporter in a thread of its own; arguments as for `Exports`."""

    def __init__(self, exporter: Any, run: str, facts: Mapping[str, Any]) -> None:
        self._exporter, self._run, self._facts = exporter, run, facts
        self._queue: SimpleQueue[tuple[Sequence[Moment], Sequence[Alert]] | str] = SimpleQueue()
        self._full = False
        # Begun at once: a script that never closes its monitor does so when no thread can begin any more.
        self._thread = threading.Thread(target=self._work, name="clipwise-export", daemon=True)
        self._thread.start()

    def write(self, moments: Sequence[Moment], alerts: Sequence[Alert]) -> None:
        """Queue something for writing. It does not block, and raises nothing."""
        if not self._thread.is_alive() or not (moments or alerts):
            return
        if self._queue.qsize() < WAITING:
            self._queue.put((moments, alerts))
        elif not self._full:
            self._full = True
            self._say("is too slow for", "what it cannot take in time is only in the recording")

    def close(self, status: str) -> None:
        """Queue the closing after all that waits; it does not block either."""
        self._queue.put(status)

    def wait(self, seconds: float) -> None:
        """Wait until it is closed."""
        if self._thread is threading.current_thread():
            return
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self._say("has not received all of", "the recording has it", f" within {PATIENCE:g} seconds")

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
            self._say("receives no more of", f"{type(error).__name__}: {error}", ", and the training goes on")

    def _say(self, what: str, why: str, more: str = "") -> None:
        say(f"{_name(self._exporter)} {what} run {self._run!r}{more}: {why}")


def _name(exporter: Any) -> str:
    return type(exporter).__name__
