"""Other tools that are given the rows as they come: one that fails is left, and the training goes on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clipwise.monitor._saying import say
from clipwise.monitor.store import Alert, Rows

__all__ = ["Feed"]


class Feed:
    """An exporter of `clipwise.monitor.exporters` at the end of the recorder's thread.

    Args:
        exporter: what is fed.
        run, facts: the run; told with the first rows.
    """

    def __init__(self, exporter: Any, run: str, facts: Mapping[str, Any]) -> None:
        self._exporter, self._run, self._facts = exporter, run, facts
        self._began = self._failed = False

    def write(self, rows: Sequence[Rows], alerts: Sequence[Alert]) -> None:
        if not rows and not alerts:
            return
        if not self._began:
            self._began = True
            self._try(self._exporter.begin, self._run, self._facts)
        self._try(self._exporter.write, rows, alerts)

    def close(self, status: str) -> None:
        if self._began:
            self._try(self._exporter.close, status)

    def _try(self, call: Callable[..., Any], *given: Any) -> None:
        if self._failed:
            return
        try:
            call(*given)
        except Exception as error:
            self._failed = True
            say(
                f"{type(self._exporter).__name__} gets no more of run {self._run!r}, and the training goes"
                f" on: {type(error).__name__}: {error}",
            )
