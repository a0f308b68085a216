"""Atomic writing: a file is written completely or not at all."""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipwise.errors import ArgumentError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A context that gives a path to write to; if it ends without an error, the result replaces ``path``.

    Readers see either the old file or the complete new one, even if two processes write at once or one is
    killed. The new file is written in a temporary folder beside ``path``, which may hold other scratch files
    and is removed afterwards. A replaced file keeps its mode. A symbolic link is kept, and the file it points
    to is replaced. A path that is not a regular file, such as ``/dev/null`` or a named pipe, is written to
    directly.

    Raises:
        OSError: the folder of ``path`` does not exist, or a file cannot be written. ``path`` is unchanged.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/a.txt") as part:
    ...         _ = part.write_text("all of it")
    ...     Path(folder, "a.txt").read_text()
    'all of it'
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    special = mode is not None and not stat.S_ISREG(mode)
    target = path if special else Path(os.path.realpath(path))
    with tempfile.TemporaryDirectory(
        prefix=".clipwise-", dir=None if special else target.parent, ignore_cleanup_errors=True
    ) as folder:
        part = Path(folder) / target.name
        yield part
        if special:
            with part.open("rb") as content, target.open("wb") as sink:
                shutil.copyfileobj(content, sink)
            return
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        if mode is not None:
            part.chmod(stat.S_IMODE(mode))
        part.replace(target)


def check_new(path: Path, force: bool = False) -> None:
    """Refuse a path that cannot be written to, or that is an existing file.

    Raises:
        ArgumentError: it is a folder, its folder does not exist, it is a symbolic link to itself, or it is a
            file and ``force`` is not set.
    """
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ArgumentError(f"cannot write {str(path)!r}: {error.strerror}") from error
    except ValueError as error:  # a null character in the name
        raise ArgumentError(f"cannot write {str(path)!r}: {error}") from error
    if path.is_dir():
        raise ArgumentError(f"{str(path)!r} is a folder; give a file")
    if not path.absolute().parent.is_dir():
        raise ArgumentError(f"there is no folder {str(path.absolute().parent)!r}")
    if path.is_file() and not force:
        raise ArgumentError(f"{str(path)!r} already exists; --force overwrites it")


def save(path: Path, content: str | bytes, *, force: bool = False) -> None:
    """Write a file as `replacing` does.

    Raises:
        ArgumentError: as for `check_new`, or the file cannot be written.
    """
    check_new(path, force)
    try:
        with replacing(path) as part:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ArgumentError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
