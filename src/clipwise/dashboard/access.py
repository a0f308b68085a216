"""Which address needs a token, and what a token is."""

import ipaddress
import re
import secrets

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


def as_token(token: str | None, host: str) -> str | None:
    """The token that is asked for: the one given, a new one where the address demands one, or none.

    Raises:
        ArgumentError: it is too short, or has characters that a URL or a cookie has no place for.
    """
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    if not TOKEN.fullmatch(token):
        raise ArgumentError(
            f"a token has 16 to 256 letters, digits, - and _, got {len(token)} characters"
            + ("" if len(token) < 16 else ", or others among them")
        )
    return token
