"""Timeouts: closes connections whose request does not arrive or whose response is not read."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class TimedProtocol(H11Protocol):
    """uvicorn's protocol with timeouts for incomplete requests and unread responses, which uvicorn lacks.

    Attributes:
        request_timeout: seconds within which a request must arrive, from the connection or its first byte.
        read_timeout: seconds after which a response that is not being read is abandoned.
    """

    request_timeout = 10.0
    read_timeout = 60.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._end: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._wait()
        else:
            self._cease()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cease()
        self.resume_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.read_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _wait(self) -> None:
        # Not begun anew with each byte: one a second would keep a connection open, too.
        if self._end is None:
            self._end = self.loop.call_later(self.request_timeout, self.transport.abort)

    def _cease(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None
