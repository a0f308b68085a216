"""Reads a user's file, decompressed if its name says so."""

import gzip
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

from clipwise.errors import DataError

__all__ = ["read_file"]

MOST = 1 << 30
"""Bytes that a packed file may hold: a few kilobytes can unpack to more than any memory."""

PACKED: dict[str, tuple[str, Callable[[Path], lzma.LZMAFile | gzip.GzipFile]]] = {
    ".xz": ("an xz", lzma.LZMAFile),
    ".gz": ("a gzip", gzip.GzipFile),
}


def read_file(path: Path) -> bytes:
    """The content of a file; ``.gz`` and ``.xz`` are decompressed.

    Raises:
        DataError: the file cannot be read, is not in the format of its name, or holds more than a gibibyte.
    """
    kind, unpacked = PACKED.get(path.suffix.lower(), ("", None))
    try:
        if unpacked is None:
            return path.read_bytes()
        with unpacked(path) as file:
            content = file.read(MOST + 1)
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not {kind} file, or a damaged one ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > MOST:
        raise DataError(f"{path}: unpacks to more than {MOST / 2**30:g} GiB: unpack it, or take a part of it")
    return content
