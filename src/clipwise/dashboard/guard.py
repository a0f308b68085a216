"""Access control of the page: a token, host names of this machine only, and security headers."""

import hashlib
import hmac
import re
from typing import Any
from urllib.parse import quote, urlencode

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response

from clipwise.dashboard.access import is_loopback

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
NO_NAME = "This page can only be opened by a name of this machine, such as localhost.\n"
LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^\[\]:]*))(?::\d+)?")


class Guard:
    """An ASGI application around another that requires the token and refuses host names of other machines.

    With DNS rebinding, a foreign page can give its own name to 127.0.0.1; its requests carry that name in
    ``Host``. So without a token only names of this machine are answered. Starlette's TrustedHostMiddleware is
    not used because some versions of it cut ``[::1]:80`` at its first colon.

    Args:
        app: the guarded application.
        token: given once as ``?token=`` and then stored in a cookie, or as ``Authorization: Bearer``.
        host: the address that the server listens on.
    """

    def __init__(self, app: Any, token: str | None, host: str) -> None:
        self._app, self._token = app, token
        self._names = LOCAL | {host.lower()} if is_loopback(host) else None
        # Cookies know no ports, and two pages may be open at once.
        self._cookie = "clipwise-" + hashlib.sha256((token or "").encode()).hexdigest()[:12]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        else:
            await (self._answer(Request(scope)) or self._app)(scope, receive, guarded)

    def _answer(self, request: Request) -> Response | None:
        """What is said instead of the page, None where it may be seen."""
        if self._names is not None and _name(request.headers.get("host", "")) not in self._names:
            return PlainTextResponse(NO_NAME, 421)
        if self._token is None:
            return None
        if request.method == "GET" and self._is_token(request.query_params.get("token", "")):
            # Out of the address bar, where somebody might read or copy it.
            rest = urlencode(
                [(key, value) for key, value in request.query_params.multi_items() if key != "token"]
            )
            path = "/" + quote(request.url.path.lstrip("/\\"), safe="/%")
            answer = RedirectResponse(path + ("?" + rest if rest else ""), 303)
            # Lax: after a click on another site's link a strict cookie is not sent. All is read by GET.
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="lax")
            return answer
        return None if self._has_token(request) else PlainTextResponse(NO_TOKEN, 401)

    def _has_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        return self._is_token(request.cookies.get(self._cookie, ""))

    def _is_token(self, given: str) -> bool:
        # In a time that says nothing of how much of it was right.
        return hmac.compare_digest(given.encode(), (self._token or "").encode())


def _name(host: str) -> str | None:
    """The name in a Host header, without the port; None where it is none.

    >>> _name("LOCALHOST:80"), _name("[::1]:80"), _name("[::1]evil.com"), _name("localhost:evil.com")
    ('localhost', '::1', None, None)
    """
    found = HOST.fullmatch(host.strip().lower())
    return None if found is None else found[1] or found[2]
