"""Saves the files of a result so that Ctrl-C cannot interrupt it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipwise.lab.report.output import files
from clipwise.lab.report.results import Results, save, steps_csv

__all__ = ["save_results"]


def save_results(results: Results, folder: Path, weights: Path | None = None) -> None:
    """Save all files of a result, and the weights if there are some."""
    with _uninterrupted():
        content = files(results)
        if results.name == "training":
            content["steps.csv"] = steps_csv(results.records[0])
        save(folder, content, extra=[weights] if weights is not None and weights.exists() else [])


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits for the seconds that saving takes: pressed twice, it would lose what it wants to keep."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: there, Ctrl-C does not arrive
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
