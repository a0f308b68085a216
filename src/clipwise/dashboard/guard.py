"""Who may see the page: a token, names of this machine only, and what a browser is told to refuse."""

import hashlib
import hmac
import ipaddress
import re
import secrets
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from clipwise.errors import ArgumentError

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every answer: the page uses nothing but itself, and nobody puts it into a page of theirs."""

NO_TOKEN = "This page needs its token: open the address that was printed, with ?token=... at its end.\n"
TOKEN = re.compile(r"[A-Za-z0-9_-]{16,256}")
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})


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


def cookie_name(token: str) -> str:
    """Of each token its own: cookies know no ports, and two pages may be open at once."""
    return "clipwise-" + hashlib.sha256(token.encode()).hexdigest()[:12]


class Guard:
    """An ASGI application around another: asks for the token, and refuses names that are not this machine's.

    A page of somebody else's may have a name that leads to 127.0.0.1 (DNS rebinding); its requests carry that
    name in ``Host``. So without a token only this machine's own names are answered.

    Args:
        app: what is guarded.
        token: to be given once as ``?token=``, from then on a cookie, or as ``Authorization: Bearer``.
        host: the address that the server listens on.
    """

    def __init__(self, app: Any, token: str | None, host: str) -> None:
        self._app, self._token = app, token
        self._names = LOCAL | {host.lower()} if is_loopback(host) else None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if self._names is not None and _name(headers.get("host", "")) not in self._names:
            await _answer(
                send, 421, "This page answers to the names of this machine only, such as localhost.\n"
            )
            return
        if self._token is not None:
            query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            given = next((value for key, value in query if key == "token"), "")
            if scope["method"] == "GET" and self._is_token(given):
                # Out of the address bar, where somebody might read or copy it.
                rest = urlencode([(key, value) for key, value in query if key != "token"])
                where = "/" + quote(scope["path"].lstrip("/\\")) + ("?" + rest if rest else "")
                # Lax: after a click on another site's link a strict cookie is not sent. All is read by GET.
                cookie = f"{cookie_name(self._token)}={self._token}; Path=/; HttpOnly; SameSite=Lax"
                await _answer(send, 303, "", {"Location": where, "Set-Cookie": cookie})
                return
            if not self._has_token(headers):
                await _answer(send, 401, NO_TOKEN)
                return

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
                there = {key.lower() for key, _ in own}
                kept = [(k, v) for k, v in message.get("headers", []) if k.lower() not in there]
                message = {**message, "headers": kept + own}
            await send(message)

        await self._app(scope, receive, guarded)

    def _has_token(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        cookie: SimpleCookie = SimpleCookie()
        try:
            cookie.load(headers.get("cookie", ""))
        except Exception:  # whatever somebody sends as a cookie
            return False
        name = cookie_name(self._token or "")
        return name in cookie and self._is_token(cookie[name].value)

    def _is_token(self, given: str) -> bool:
        # In a time that says nothing of how much of it was right.
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    host = host.strip().lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host


async def _answer(send: Any, status: int, text: str, headers: dict[str, str] | None = None) -> None:
    every = HEADERS | {"Content-Type": "text/plain; charset=utf-8"} | (headers or {})
    body = text.encode()
    raw = [(k.lower().encode(), v.encode()) for k, v in every.items()]
    raw.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
