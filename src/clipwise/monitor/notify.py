"""Notifications: alerts are sent through Apprise, in a thread of their own."""

import re
import threading
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from clipwise.errors import ArgumentError
from clipwise.extras import load
from clipwise.monitor._warning import say
from clipwise.monitor.store.records import Alert

WAITING = 100
"""Alerts that may wait to be sent; more than that are not sent."""

PATIENCE = 10.0
"""Seconds that are waited at the end for what is still to be sent."""

_KINDS = {"info": "info", "warning": "warning", "critical": "failure"}


class Notifier:
    """Sends alerts to addresses in Apprise's notation: mail, chat, webhooks and others.

    Sending happens in the background. If an alert cannot be delivered, a warning is given once, and the
    training continues.

    Args:
        urls: addresses, such as ``"slack://..."``; see https://github.com/caronc/apprise/wiki.
        run: name of the run.

    Raises:
        ArgumentError: Apprise does not know an address. The message does not repeat it, since it may hold
            secrets.
        MissingPackageError: Apprise is not installed.
    """

    def __init__(self, urls: Sequence[str], run: str) -> None:
        self._run = run
        self._targets = _targets(urls)
        self._queue: SimpleQueue[Alert | None] = SimpleQueue()
        self._closed, self._warned = False, False
        # Begun at once: a script that never closes its monitor does so when no thread can begin any more.
        self._thread = threading.Thread(target=self._work, name="clipwise-notify", daemon=True)
        self._thread.start()

    def send(self, alert: Alert) -> None:
        """Queue an alert for sending. It does not block, and raises nothing."""
        if self._closed:
            return
        if self._queue.qsize() < WAITING:
            self._queue.put(alert)
        else:
            self._warn(f"more than {WAITING} notifications wait to be sent; the rest is only recorded")

    def close(self) -> None:
        """Wait up to 10 seconds for alerts that are still queued, and stop."""
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        if self._thread is threading.current_thread():
            return
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self._warn(f"notifications were not sent within {PATIENCE:g} seconds; they are recorded")

    def _work(self) -> None:
        while (alert := self._queue.get()) is not None:
            for place, target in self._targets:
                try:
                    sent = target.notify(
                        title=f"{self._run}: {alert.rule.replace('_', ' ')} ({alert.level})",
                        body=f"{alert.seen}\n\n{alert.why}\n\n{alert.advice}",
                        notify_type=_KINDS[alert.level],
                    )
                except Exception as error:  # whatever it is, the training does not end of it
                    self._warn(f"{place} could not be notified: {type(error).__name__}")
                else:
                    if not sent:
                        self._warn(f"{place} could not be notified: it could not be reached, or it refused")

    def _warn(self, sentence: str) -> None:
        if self._warned:
            return
        self._warned = True
        say(f"{sentence}. The training goes on.")


def _targets(urls: Sequence[str]) -> list[tuple[str, Any]]:
    """What each address stands for, beside words that may be shown."""
    if isinstance(urls, str):
        urls = (urls,)
    if not urls:
        return []
    apprise = load("apprise", purpose="a notification", extra="notify")
    found: list[tuple[str, Any]] = []
    for number, url in enumerate(urls, 1):
        place = f"address {number} of {len(urls)} ({_masked(url)})"
        known = apprise.Apprise.instantiate(url, suppress_exceptions=True) if isinstance(url, str) else None
        if known is None:
            raise ArgumentError(
                f"{place} is not an address that Apprise knows. Its notation for each service:"
                " https://github.com/caronc/apprise/wiki"
            )
        target = apprise.Apprise()
        target.add(known)
        found.append((place, target))
    return found


def _masked(url: Any) -> str:
    """Which service, and nothing else: a token may stand anywhere in an address.

    >>> _masked("slack://T1JJ3T3L2/secret/secret"), _masked("my secret"), _masked(3)
    ('slack://...', 'no service before ://', 'int')
    """
    if not isinstance(url, str):
        return type(url).__name__
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]{0,30})://", url)
    return f"{scheme[1]}://..." if scheme else "no service before ://"
