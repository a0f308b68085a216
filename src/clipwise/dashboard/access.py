"""Which address needs a token, and what a token is."""

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
    """Whether an address is reached from this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_another_user(host: str, port: int) -> bool:
    """Whether somebody else of this machine is at the other end of a connection; False where nothing says so.

    All users reach a port of the loopback address. Linux lists whose sockets these are.
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
    """The token that is asked for: the one given, a new one where the address demands one, or none.

    Raises:
        ArgumentError: it is too short, or has characters that a URL or a cookie has no place for.
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
    """A new token."""
    return secrets.token_urlsafe(24)


def token_in(path: Path) -> str:
    """The token that a file holds, which no other user can read: what is in a command line, all can.

    Raises:
        ArgumentError: others can read it, or it is no text.
    """
    if os.name == "posix" and path.stat().st_mode & 0o077:
        raise ArgumentError(f"other users can read the token in {str(path)!r}: chmod 600 {path}")
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise ArgumentError(f"there is no token in {str(path)!r}: {error}") from error


@contextmanager
def unseen(url: str) -> Iterator[str]:
    """The address of a file that leads to another address; it is there until the end of the block.

    A browser is started with an address in its command line, which all users of a machine see: this one, and
    not the one with the token. Only its owner can read the file.
    """
    with tempfile.TemporaryDirectory(prefix="clipwise-", ignore_cleanup_errors=True) as folder:
        path = Path(folder, "open.html")
        path.touch(0o600)
        text = (
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={escape(url)}">'
        )
        path.write_text(text, "utf-8")
        yield path.as_uri()
