"""The routes of the page: its files, its data as JSON, and updates as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from clipwise.dashboard.assets import TYPES, assets
from clipwise.dashboard.changes import CHANGES, change
from clipwise.dashboard.guard import Guard
from clipwise.dashboard.opened import Unavailable
from clipwise.dashboard.query import BUCKETS, number, pairs, span, text, whole, wholes
from clipwise.dashboard.recording import Recording
from clipwise.dashboard.watch import Watch
from clipwise.errors import ArgumentError

LISTEN = 0.05
"""Seconds between two looks at whether there is news: at a number in memory."""
ALIVE = 15.0
"""Seconds of silence after which a line says that the connection is still there."""

LONG = frozenset({"series", "distribution", "clipped", "layers", "advice"})
"""Questions that take a while on a long run: one at a time, and the list of runs goes past them."""

Answer = Callable[[Request], dict[str, Any]]


def make_app(
    recording: Recording,
    watch: Watch,
    *,
    token: str | None = None,
    host: str = "127.0.0.1",
    stopping: Callable[[], bool] = lambda: False,
) -> Guard:
    """The page as an ASGI application.

    Args:
        recording: the recording to show.
        watch: reports changes of the recording.
        token: as for `Guard`.
        host: the address that the server listens on.
        stopping: whether the server is shutting down, so that event streams end too.
    """
    data = _Data(recording)
    # They read the same file and wait for one another anyway: here, where they hold no thread meanwhile.
    turn = asyncio.Semaphore(1)
    routes = [
        Route("/", _page),
        Route("/static/{name:path}", _file),
        Route("/api/events", _events(watch, stopping)),
        *(
            Route(f"/api/{name}", _json(answer, turn if name in LONG else None))
            for name, answer in data.answers().items()
        ),
        *(
            Route(f"/api/{name}", change(recording.path, make, token=token is not None), methods=["POST"])
            for name, make in CHANGES.items()
        ),
    ]
    return Guard(Starlette(routes=routes), token, host)


class _Data:
    """The questions that the page asks."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def answers(self) -> dict[str, Answer]:
        return {
            name: getattr(self, name)
            for name in ("runs", "run", "series", "distribution", "clipped", "layers", "advice")
        }

    def runs(self, request: Request) -> dict[str, Any]:
        return {"runs": self._recording.runs()}

    def run(self, request: Request) -> dict[str, Any]:
        return {"run": self._recording.run(_run(request))}

    def series(self, request: Request) -> dict[str, Any]:
        query = request.query_params
        return {
            "series": self._recording.series(
                wholes(query, "run"),
                pairs(query, "source", "name")[:64],
                **span(query),
                buckets=whole(query, "buckets", BUCKETS) or 1000,
                rank=whole(query, "rank"),
            )
        }

    def distribution(self, request: Request) -> dict[str, Any]:
        return {"distribution": self._recording.distribution(_run(request), **_which(request))}

    def clipped(self, request: Request) -> dict[str, Any]:
        threshold = number(request.query_params, "threshold")
        if threshold is None or threshold < 0:
            raise ArgumentError(f"threshold must be a number from 0 on, got {threshold}")
        return self._recording.clipped(threshold, _run(request), **_which(request))

    def advice(self, request: Request) -> dict[str, Any]:
        source = text(request.query_params, "source")
        return {"advice": self._recording.advice(_run(request), source)}

    def layers(self, request: Request) -> dict[str, Any]:
        columns = whole(request.query_params, "columns", BUCKETS) or 300
        return {"layers": self._recording.layers(_run(request), **_which(request), columns=columns)}


def _run(request: Request) -> int:
    run = whole(request.query_params, "run")
    if run is None:
        raise ArgumentError("say which run: ?run=1")
    return run


def _which(request: Request) -> dict[str, Any]:
    query = request.query_params
    return {"source": text(query, "source"), "rank": whole(query, "rank"), **span(query)}


def _json(answer: Answer, turn: asyncio.Semaphore | None) -> Callable[[Request], Any]:
    """In a thread of its own, once it is its turn: a long run takes a while, and the news go on."""

    async def endpoint(request: Request) -> Response:
        try:
            async with turn or nullcontext():
                if turn is not None and await request.is_disconnected():
                    return Response(status_code=499)  # nobody waits for it any more
                found = await run_in_threadpool(answer, request)
        except Unavailable as error:
            # An ordinary answer: that there is no file yet is nothing wrong with the question.
            return JSONResponse({"state": {"kind": error.state.kind, "message": error.state.message}})
        except ArgumentError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except LookupError as error:
            return JSONResponse({"error": f"there is no run {error}"}, status_code=404)
        text = json.dumps({"state": {"kind": "ready", "message": ""}} | found, allow_nan=False)
        return Response(text, media_type="application/json")

    return endpoint


async def _page(request: Request) -> Response:
    return Response(assets()["index.html"], media_type=TYPES["html"])


async def _file(request: Request) -> Response:
    name = request.path_params["name"]
    content = assets().get(name)
    if content is None:
        return Response("There is no such file.\n", status_code=404, media_type="text/plain")
    return Response(content, media_type=TYPES[name.rpartition(".")[2]])


def _events(watch: Watch, stopping: Callable[[], bool]) -> Callable[[Request], Any]:
    async def news() -> AsyncIterator[str]:
        seen, silent = -1, 0.0
        yield "retry: 1000\n\n"
        while not stopping():
            if watch.revision != seen:
                seen, silent = watch.revision, 0.0
                yield f"event: change\ndata: {seen}\n\n"
            elif silent > ALIVE:
                silent = 0.0
                yield ": still here\n\n"
            await asyncio.sleep(LISTEN)
            silent += LISTEN

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(news(), media_type="text/event-stream")

    return endpoint
