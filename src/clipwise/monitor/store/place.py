"""Checks whether a recording can be written to a path, before hours are spent on a training."""

import os
from pathlib import Path

from clipwise.errors import StoreError
from clipwise.monitor.store._schema import open_database

__all__ = ["recordable"]


def recordable(path: str | os.PathLike[str]) -> Path:
    """The absolute path, if a recording can be written there. An existing file is read but not changed.

    Raises:
        StoreError: the folder does not exist or cannot be written, or the file is not a recording of clipwise
            or cannot be written.
    """
    path = Path(path).absolute()
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # said below
    except (OSError, ValueError) as error:  # a link that leads to itself; a null character in the name
        raise StoreError(
            f"{str(path)!r} cannot be a recording: {getattr(error, 'strerror', error)}"
        ) from error
    folder = Path(os.path.realpath(path)).parent  # where a link leads, SQLite follows
    if not folder.is_dir():
        raise StoreError(f"there is no folder {str(folder)!r} for the recording")
    if not path.exists():
        if not os.access(folder, os.W_OK):
            raise StoreError(f"nothing can be written into the folder {str(folder)!r}")
    elif not path.is_dir() and not path.is_file():
        raise StoreError(f"{str(path)!r} is no file")
    elif path.is_dir() or path.stat().st_size:
        open_database(path).close()
        if not os.access(path, os.W_OK):
            raise StoreError(f"{str(path)!r} cannot be written")
    return path
