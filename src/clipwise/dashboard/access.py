"""Which addresses require a token, and what a valid token is."""

import ipaddress
import os
import re
import secrets
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from html import escape
from pathlib import Path

from clipwise.errors import ArgumentError

TOKEN = re.compile(r"[A-Za-z0-9_-]{16,256}")


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_another_user(host: str, port: int) -> bool:
    """Whether a connection comes from another user of this machine; False if that is unknown.

    All users of a machine can connect to its loopback address. Linux lists the owner of each socket.
    """
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError, ValueError, IndexError):
            for line in Path(table).read_text("ascii").splitlines()[1:]:
                fields = line.split()
                if fields[1] == _listed(host, port, len(fields[1])):
                    return int(fields[7]) != os.getuid()
    return False


def _listed(host: str, port: int, length: int) -> str:
    """An address as the kernel writes it: words of 32 bits in the machine's own order."""
    address = ipaddress.ip_address(host)
    packed = address.packed
    if length > 13 and len(packed) == 4:
        packed = ipaddress.ip_address(f"::ffff:{host}").packed
    words = (packed[i : i + 4] for i in range(0, len(packed), 4))
    return "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words) + f":{port:04X}"


def as_token(token: str | None, host: str) -> str | None:
    """The token to require: the given one, a new one if the address requires one, or none.

    Raises:
        ArgumentError: the token is too short, or has characters that are not allowed in a URL or a cookie.
    """
    if token is None:
        return None if is_loopback(host) else any_token()
    if not TOKEN.fullmatch(token):
        raise ArgumentError(
            f"a token has 16 to 256 letters, digits, - and _, got {len(token)} characters"
            + ("" if len(token) < 16 else ", or others among them")
        )
    return token


def any_token() -> str:
    """A new random token."""
    return secrets.token_urlsafe(24)


def token_in(path: Path) -> str:
    """The token in a file that only its owner can read. (A command line can be read by all users.)

    Raises:
        ArgumentError: others can read the file, or it does not hold text.
    """
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ArgumentError(f"other users can read the token in {str(path)!r}: chmod 600 {path}")
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise ArgumentError(f"there is no token in {str(path)!r}: {error}") from error


@contextmanager
def unseen(url: str) -> Iterator[str]:
    """A temporary file that redirects to a URL, until the block ends; returns the address of the file.

    The browser's command line, which all users of a machine can see, then holds the address of a file that
    only its owner can read, and not the URL with the token.
    """
    with tempfile.TemporaryDirectory(prefix="clipwise-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "open.html")
        path.touch(0o600)
        text = (
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={escape(url)}">'
        )
        path.write_text(text, "utf-8")
        yield path.as_uri()
