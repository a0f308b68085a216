"""The bytes of a user's file, unpacked where its name says that it is packed."""

import gzip
import lzma
import zlib
from pathlib import Path

from clipwise.errors import DataError

__all__ = ["read_file"]


def read_file(path: Path) -> bytes:
    """The content of a file; ``.gz`` and ``.xz`` are unpacked.

    Raises:
        DataError: the file cannot be read, or is not packed as its name says.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    suffix = path.suffix.lower()
    try:
        if suffix == ".xz":
            return lzma.decompress(content)
        if suffix == ".gz":
            return gzip.decompress(content)
    except (lzma.LZMAError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        kind = "an xz" if suffix == ".xz" else "a gzip"
        raise DataError(f"{path}: not {kind} file, or a damaged one ({error})") from error
    return content
