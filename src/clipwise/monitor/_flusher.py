"""The thread that writes recorded steps to disk; problems with the disk do not end the training."""

import contextlib
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from clipwise.errors import StoreError
from clipwise.monitor._alerting import Alerting
from clipwise.monitor._exports import Exports
from clipwise.monitor._rows import Item, SpikeDetector, read, without_unreadable
from clipwise.monitor._warning import say
from clipwise.monitor.store import Alert, Rows, Store, Writer, moments_of
from clipwise.monitor.store._schema import ENDING, is_busy
from clipwise.monitor.suggest.condition import divergence

LONGEST_WAIT = 30.0
"""Seconds between two tries on a file that cannot be written."""

PATIENCE = 60.0
"""Seconds that are waited for the thread at the end."""


class Flusher:
    """Takes items from a queue, passes them to the rules and writes them, in a thread of its own.

    Args:
        queue: the items; the training appends, the thread takes from the left.
        connect: opens the file, when there is something to write and after a failure.
        path: path of the file, for messages.
        interval: number of seconds after which a step is in the file at the latest.
        keep: number of rows kept in memory while the file cannot be written; the oldest are dropped.
        rank: rank of this process.
        alerting: passes the steps to the rules.
        exports: exporters of the run.
    """

    def __init__(
        self,
        queue: deque[Item],
        connect: Callable[[], Writer],
        *,
        path: str,
        interval: float,
        keep: int,
        rank: int,
        alerting: Alerting,
        exports: Exports,
    ) -> None:
        self._alerting, self._exports, self._spikes = alerting, exports, SpikeDetector()
        self._rank = rank
        self._queue, self._connect, self._path = queue, connect, path
        self._interval, self._keep = interval, keep
        self._writer: Writer | None = None
        self._number: int | None = None  # of the run in the file
        self._rows: deque[Rows] = deque()
        self._alerts: list[Alert] = []  # to be written
        self._acted: list[Alert] = []  # of these: what has been acted on before they were in the file
        self._lost: list[int] = []  # first and last step, and number of rows, of what went for good
        self._failed: str | None = None
        self._is_busy = False  # whether it failed since others have the file locked
        self._warned: set[str] = set()
        self._next_try, self._wait = 0.0, interval
        self._turn = threading.RLock()  # an action may call `flush`
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="clipwise-monitor", daemon=True)
        self._thread.start()

    @property
    def unwritten(self) -> list[Rows]:
        """Rows that are only in memory."""
        with self._turn:
            return list(self._rows)

    def flush(self) -> bool:
        """Write what there is now, in the calling thread; returns whether all of it is in the file."""
        with self._turn:
            self._next_try = 0.0
            self._turn_over()
            return not self._rows

    def close(self, status: str, note: str, clip: str | None, *, judge: bool = False) -> None:
        """Write the rest, store how the run ended and its clip, and stop.

        Args:
            status, note, clip: of the run.
            judge: whether to check first if the run diverged, which then becomes its status.
        """
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)
        if not self._turn.acquire(timeout=1.0):  # an action that does not come back
            say(
                f"the recorder of {self._path!r} has not ended within {PATIENCE:g} seconds: what it has not"
                " written is lost"
            )
            return
        try:
            self._next_try = 0.0
            self._turn_over(last=True)
            self._wait_for_others()
            said = self._divergence() if judge else None
            self._finish(*((status, note) if said is None else ("diverged", said)), clip)
        finally:
            self._turn.release()

    def _wait_for_others(self) -> None:
        """Write what is left while other processes block the file, since there is no later chance."""
        end = time.monotonic() + ENDING
        while self._rows and self._is_busy and time.monotonic() < end:
            time.sleep(0.05)
            self._next_try = 0.0
            self._turn_over()

    def _divergence(self) -> str | None:
        """Where the run broke down, in a sentence; None where it did not."""
        if self._number is None:
            return None
        try:
            with Store(self._path) as store:
                return divergence(store, self._number)
        except Exception:  # only an opinion: the run is in the file
            return None

    def _finish(self, status: str, note: str, clip: str | None) -> None:
        said = self._loss()
        if said is not None:
            say(said)
        if self._writer is not None:
            with contextlib.suppress(Exception):
                self._writer.finish(status, "\n".join(filter(None, (note, said))), clip)
            self._writer = None
        self._exports.close(status, self._path, self._number)
        self._alerting.close()

    # In the thread.

    def _run(self) -> None:
        # Twice an interval, so that what is older than one is in the file.
        while not self._ended.wait(self._interval / 2):
            with self._turn:
                self._turn_over()

    def _turn_over(self, last: bool = False) -> None:
        """One round of work; an error here neither ends the thread nor reaches the script."""
        for part in (partial(self._take, last), self._write):
            try:
                part()
            except Exception as error:
                self._warn_once(f"{type(error).__name__}: {error}", "the recorder failed, and continues: ")

    def _take(self, last: bool) -> None:
        """Take what is in the queue, show it to the rules, and hand it to other tools."""
        items = [self._queue.popleft() for _ in range(len(self._queue))]
        try:
            rows = read(items, self._spikes)
        except Exception:
            items = without_unreadable(items, self._unreadable)
            rows = read(items, self._spikes)
        self._rows.extend(rows)
        watched = self._alerting.engine.rules or self._exports
        moments = moments_of(rows, self._rank) if watched else []
        alerts = [*self._alerting.see(moments, items), *(self._alerting.rest() if last else ())]
        self._alerts.extend(alerts)
        self._exports.write(moments, alerts)

    def _unreadable(self, name: str, error: Exception) -> None:
        self._warn_once(
            f"{name}: {type(error).__name__}: {error}",
            "a value could not be read and is not recorded, nor are others of its kind (if an array is"
            " donated, log a copy of it): ",
        )

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
                self._number = self._writer.run
            news = self._writer.write(self._rows, self._alerts, self._alerting.cooldowns)
        except Exception as error:
            known = isinstance(error, sqlite3.Error | OSError | StoreError)
            self._is_busy = is_busy(error)
            self._failed = str(error) if known else f"{type(error).__name__}: {error}"
            self._warn_once(
                self._failed,
                f"the recording {self._path!r} cannot be written just now, and the training goes on; the last"
                f" {self._keep:,} rows are kept in memory: ",
            )
            if self._writer is not None:
                with contextlib.suppress(Exception):
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
        """Continue without the file: the actions of rules are carried out all the same."""
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
        """A sentence about the rows that are not in the file."""
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
