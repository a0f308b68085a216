"""Whether something can be recorded at a place, asked before hours are spent on what is to be recorded."""

import os
from pathlib import Path

from clipwise.errors import StoreError
from clipwise.monitor.store._schema import open_database

__all__ = ["recordable"]


def recordable(path: str | os.PathLike[str]) -> Path:
    """The absolute path, if something can be recorded there; an existing file is looked at and left alone.

    Raises:
        StoreError: its folder is not there or cannot be written, or the file is none of clipwise's or cannot.
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
