"""Where downloaded and prepared data is kept, and how a file gets there whole or not at all."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from clipwise.errors import DataError

__all__ = ["cache_folder", "write_atomically"]


def cache_folder() -> Path:
    """The folder for data: ``$CLIPWISE_CACHE``, or ``clipwise`` in the platform's own cache folder.

    That is ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, ``~/Library/Caches`` on macOS and
    ``%LOCALAPPDATA%`` on Windows. The folder can be deleted at any time.
    """
    if chosen := os.environ.get("CLIPWISE_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "clipwise"


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call ``write`` with a path beside ``path`` and move the file it makes into place; return ``path``.

    A reader sees the old file or the whole new one, also when two processes write at once or one is killed.

    Raises:
        DataError: the folder or the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # it is there only if writing or moving it failed
            part.unlink()
    return path
