"""The thread that moves what was recorded to the disk, and never lets a disk end a training."""

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from clipwise.errors import StoreError
from clipwise.monitor._alerting import Alerting
from clipwise.monitor._feeding import Feed
from clipwise.monitor._rows import Item, Usual, read
from clipwise.monitor._saying import MonitorWarning, say
from clipwise.monitor.store import Alert, Rows, Writer

__all__ = ["Flusher", "MonitorWarning"]

LONGEST_WAIT = 30.0
"""Seconds between two tries on a file that cannot be written."""


class Flusher:
    """Takes items from a queue, shows them to the rules and writes them, in a thread of its own.

    Args:
        queue: the items; the training appends, the thread takes from the left.
        connect: opens the file, when there is something to write and after a failure.
        path: of the file, for messages.
        interval: seconds after which a step is in the file at the latest.
        keep: rows that are kept in memory while the file cannot be written; the oldest go first.
        alerting: what watches the rows.
        feeds: other tools that are given the rows.
    """

    def __init__(
        self,
        queue: deque[Item],
        connect: Callable[[], Writer],
        *,
        path: str,
        interval: float,
        keep: int,
        alerting: Alerting,
        feeds: Sequence[Feed] = (),
    ) -> None:
        self._alerting, self._feeds, self._usual = alerting, feeds, Usual()
        self._queue, self._connect, self._path = queue, connect, path
        self._interval, self._keep = interval, keep
        self._writer: Writer | None = None
        self._rows: deque[Rows] = deque()
        self._alerts: list[Alert] = []  # to be written
        self._acted: list[Alert] = []  # of these: what has been acted on before they were in the file
        self._lost: list[int] = []  # first and last step, and number of rows, of what went for good
        self._failed: str | None = None
        self._warned: set[str] = set()
        self._next_try, self._wait = 0.0, interval
        self._turn = threading.RLock()  # an action may call `flush`
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="clipwise-monitor", daemon=True)
        self._thread.start()

    @property
    def unwritten(self) -> list[Rows]:
        """What is in memory only."""
        with self._turn:
            return list(self._rows)

    def flush(self) -> bool:
        """Write what is there now, in the thread that calls; whether all of it is in the file."""
        with self._turn:
            self._next_try = 0.0
            self._turn_over()
            return not self._rows

    def close(self, status: str, note: str, clip: str | None) -> None:
        """Write the rest, say how it ended and what was done to the gradients, and stop."""
        self._ended.set()
        self._wake.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=60)
        with self._turn:
            self._next_try = 0.0
            self._turn_over(last=True)
            said = self._loss()
            if said is not None:
                say(said)
            for feed in self._feeds:
                feed.close(status)
            self._alerting.close()
            if self._writer is not None:
                with contextlib.suppress(sqlite3.Error, OSError):
                    self._writer.finish(status, "\n".join(filter(None, (note, said))), clip)
                self._writer = None

    # In the thread.

    def _run(self) -> None:
        while not self._ended.is_set():
            self._wake.wait(self._interval / 2)  # so that what is older than the interval is in the file
            with self._turn:
                self._turn_over()

    def _turn_over(self, last: bool = False) -> None:
        items = [self._queue.popleft() for _ in range(len(self._queue))]
        try:
            rows = read(items, self._usual)
        except Exception as error:  # a value that is no number: that turn is lost, the training is not
            self._warn_once(f"{type(error).__name__}: {error}", "values of some steps could not be read: ")
            rows = []
        alerts = [*self._alerting.see(rows), *(self._alerting.rest() if last else ())]
        for feed in self._feeds:
            feed.write(rows, alerts)
        self._rows.extend(rows)
        self._alerts.extend(alerts)
        self._write()

    def _write(self) -> None:
        if self._writer is None and not self._rows:
            return
        now = time.monotonic()
        if now < self._next_try:
            self._go_on()
            return
        try:
            if self._writer is None:
                self._writer = self._connect()
            news = self._writer.write(self._rows, self._alerts, self._alerting.cooldowns)
        except (sqlite3.Error, OSError, StoreError) as error:
            self._failed = str(error)
            self._warn_once(
                str(error),
                f"the recording {self._path!r} cannot be written just now, and the training goes on; the last"
                f" {self._keep:,} rows are kept in memory: ",
            )
            if self._writer is not None:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.close()
                self._writer = None
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            self._next_try = now + self._wait
            self._go_on()
        else:
            self._wait = self._interval
            acted, self._alerts, self._acted = self._acted, [], []
            self._rows.clear()
            self._alerting.act([alert for alert in news if alert not in acted])

    def _go_on(self) -> None:
        """Without the file: what the rules ask for is done all the same."""
        self._forget_the_oldest()
        news = self._alerts[len(self._acted) :]
        self._acted = list(self._alerts)
        self._alerting.act(news)

    def _forget_the_oldest(self) -> None:
        rows = sum(len(some.data) for some in self._rows)
        while rows > self._keep and len(self._rows) > 1:
            gone = self._rows.popleft()
            rows -= len(gone.data)
            first, last = int(gone.data[:, 0].min()), int(gone.data[:, 0].max())
            if self._lost:
                first, last = min(first, self._lost[0]), max(last, self._lost[1])
            self._lost = [first, last, (self._lost[2] if self._lost else 0) + len(gone.data)]

    def _loss(self) -> str | None:
        """What is not in the file, in words."""
        left = list(self._rows)
        steps = [int(step) for some in left for step in (some.data[:, 0].min(), some.data[:, 0].max())]
        steps += self._lost[:2]
        if not steps:
            return None
        rows = sum(len(some.data) for some in left) + (self._lost[2] if self._lost else 0)
        return (
            f"{rows:,} rows of steps {min(steps):,} to {max(steps):,} are not in {self._path!r}:"
            f" {self._failed}." + (" Those that are still in memory: monitor.unwritten." if left else "")
        )

    def _warn_once(self, reason: str, sentence: str) -> None:
        if sentence not in self._warned:
            self._warned.add(sentence)
            say(f"{sentence}{reason}")
