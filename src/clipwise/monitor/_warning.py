"""Warnings from a background thread, where an exception could not be caught."""

import shutil
import sys
import textwrap
import warnings

WIDEST = 110
"""Columns of a line, however wide the terminal is."""


class MonitorWarning(UserWarning):
    """A warning about the training or its recording; the training continues."""


def say(sentence: str) -> None:
    """Warn; if warnings are errors, print instead, since an exception would only end the thread."""
    try:
        # No line of anybody's stands behind it: it is about the training.
        warnings.warn_explicit(sentence, MonitorWarning, "clipwise.monitor", 1)
    except MonitorWarning:
        print(_shown(sentence), end="", file=sys.stderr)


def line_width() -> int:
    """Number of columns of a line on stderr."""
    return min(WIDEST, shutil.get_terminal_size().columns)


def _shown(sentence: object) -> str:
    return textwrap.fill(f"clipwise: {sentence}", line_width(), subsequent_indent="  ") + "\n"


_format = warnings.formatwarning


def _formatted(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """As ever; but where no line of code is meant, none is shown, and the sentences are wrapped."""
    if issubclass(category, MonitorWarning):
        return _shown(message)
    return _format(message, category, filename, lineno, line)


warnings.formatwarning = _formatted
