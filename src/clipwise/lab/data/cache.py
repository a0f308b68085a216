"""The folder for downloaded and prepared data, and atomic writing to it."""

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from clipwise.errors import DataError
from clipwise.files import replacing


def cache_folder() -> Path:
    """The folder for data: ``$CLIPWISE_CACHE``, or ``clipwise`` in the platform's cache folder.

    That is ``$XDG_CACHE_HOME`` or ``~/.cache`` on Linux, ``~/Library/Caches`` on macOS and ``%LOCALAPPDATA%``
    on Windows. The folder can be deleted at any time.
    """
    if chosen := os.environ.get("CLIPWISE_CACHE"):
        return Path(chosen).expanduser()
    return platformdirs.user_cache_path("clipwise", appauthor=False, opinion=False)


def write_atomically(path: Path, write: Callable[[Path], object]) -> Path:
    """Call ``write`` with the path that `replacing` gives, creating the folder if needed; return ``path``.

    Raises:
        DataError: the folder or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            write(part)
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error.strerror or error})") from error
    return path
