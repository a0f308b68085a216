"""Changes of a recording made on the page: they are validated, and must come from the page itself."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from clipwise.dashboard.access import is_another_user
from clipwise.errors import ArgumentError, StoreError
from clipwise.monitor.store import annotate, delete, rename

MOST = 1 << 16
"""Bytes of a request."""

Change = Callable[[Path, Mapping[str, Any]], None]

CHANGES: dict[str, Change] = {
    "rename": lambda path, asked: rename(path, _run(asked), asked.get("name", "")),
    "annotate": lambda path, asked: annotate(path, _run(asked), asked.get("notes", "")),
    "delete": lambda path, asked: delete(path, _runs(asked)),
}


def change(path: Path, make: Change, *, token: bool) -> Callable[[Request], Any]:
    """An endpoint for ``POST`` with a JSON object.

    Args:
        path: path of the recording.
        make: applies the change.
        token: whether clients have given a token; without one, the client must be the user who runs the
            server.
    """

    async def endpoint(request: Request) -> Response:
        if not is_of_the_page(request):
            return JSONResponse({"error": "only the page itself may change a recording"}, status_code=403)
        if not token and request.client and is_another_user(*request.client):
            return JSONResponse(
                {"error": "another user of this machine started this page: changes need a token"},
                status_code=403,
            )
        try:
            await run_in_threadpool(make, path, await _asked(request))
        except ArgumentError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except StoreError as error:
            return JSONResponse({"error": str(error)}, status_code=409)
        return JSONResponse({})

    return endpoint


def is_of_the_page(request: Request) -> bool:
    """Whether a request comes from this page and not from another site (CSRF).

    Browsers send the page's origin with each ``POST``. Another site cannot omit it, nor send JSON without a
    preflight request, which is never allowed.
    """
    headers = request.headers
    origin = urlsplit(headers.get("origin", ""))
    return (
        origin.scheme in ("http", "https")
        and origin.netloc.lower() == headers.get("host", "").strip().lower()
        and headers.get("sec-fetch-site", "same-origin") == "same-origin"
        and headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
    )


async def _asked(request: Request) -> Mapping[str, Any]:
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > MOST:
            raise ArgumentError(f"a request may have {MOST:,} bytes")
    try:
        asked = json.loads(content)
    except (ValueError, RecursionError):
        asked = None
    if not isinstance(asked, dict):
        raise ArgumentError("a change is a JSON object")
    return asked


def _runs(asked: Mapping[str, Any]) -> list[int]:
    runs = asked.get("runs")
    if not isinstance(runs, list) or not runs:
        raise ArgumentError(f"runs must be a list of numbers of runs, got {runs!r}")
    return [_run({"run": run}) for run in runs]


def _run(asked: Mapping[str, Any]) -> int:
    run = asked.get("run")
    if type(run) is not int or not 0 <= run < 1 << 63:
        raise ArgumentError(f"run must be the number of a run, got {run!r}")
    return run
