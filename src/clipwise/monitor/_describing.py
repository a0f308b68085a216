"""What is kept with a run: its clip as it is written, and what it ran on."""

import platform
import sys
from typing import Any

from clipwise import config
from clipwise.errors import ArgumentError, ConfigError

__all__ = ["spelled", "versions"]


def spelled(clip: Any) -> str:
    """A clip as configurations have it."""
    try:
        return config.to_string(clip)
    except (ArgumentError, ConfigError):  # a policy of the user's own
        return repr(clip)


def versions() -> dict[str, Any]:
    """Of Python, and of the frameworks that are loaded."""
    loaded: dict[str, Any] = {
        name: str(getattr(sys.modules[name], "__version__", "?"))
        for name in ("torch", "jax", "keras", "tensorflow")
        if name in sys.modules
    }
    return {"python": platform.python_version(), **loaded}
