"""Saying something from the background, where an exception would be heard by nobody."""

import sys
import warnings


class MonitorWarning(UserWarning):
    """Something about the training or its recording; the training goes on."""


def say(sentence: str) -> None:
    """Warn; where warnings are errors, print instead: a thread that ends helps nobody."""
    try:
        # No line of anybody's stands behind it: it is about the training.
        warnings.warn_explicit(sentence, MonitorWarning, "clipwise.monitor", 1)
    except MonitorWarning:
        print(f"MonitorWarning: {sentence}", file=sys.stderr)
