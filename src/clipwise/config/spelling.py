"""A clip in words, for messages and records."""

from typing import Any

from clipwise.config import strings
from clipwise.config.paths import Path
from clipwise.config.write import to_data
from clipwise.errors import ArgumentError, ConfigError

__all__ = ["spelled"]


def spelled(clip: Any) -> str:
    """A clip as it is written in a configuration; its repr if it holds a policy of the user's own."""
    try:
        return strings.write(to_data(clip, Path()))
    except (ArgumentError, ConfigError):
        return repr(clip)
