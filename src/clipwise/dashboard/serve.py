"""The server of the live page."""

import contextlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from clipwise.checks import whole
from clipwise.dashboard.access import as_token
from clipwise.dashboard.recording import Recording
from clipwise.dashboard.watch import Watch
from clipwise.errors import ArgumentError
from clipwise.extras import load

PORT = 8765
CONNECTIONS = 256
"""At once; more are told to come again."""


class Dashboard:
    """A server of the live page. As a context manager it starts in a thread and stops at the end.

    Args:
        path: path of the recording, which need not exist yet.
        host: address to listen on. An address that other machines can reach requires a token, which is
            generated unless given.
        port: port to listen on; 0 for any free one; None for 8765 or, if that is in use, any free one.
        token: token that browsers must send.

    Attributes:
        url: URL to open in the browser, including the token.

    Raises:
        ArgumentError: the address or port cannot be used, or the token is not valid.
        MissingPackageError: ``clipwise[dashboard]`` is not installed.

    >>> with Dashboard("clipwise.db", port=0) as page:
    ...     page.url.startswith("http://127.0.0.1:")
    True
    """

    def __init__(
        self,
        path: str | os.PathLike[str] = "clipwise.db",
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        token: str | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.token = as_token(token, host)
        load("starlette", purpose="the page", extra="dashboard")
        uvicorn: Any = load("uvicorn", purpose="the page", extra="dashboard")
        from clipwise.dashboard.app import make_app
        from clipwise.dashboard.timeouts import TimedProtocol

        self._socket = _listen(host, port)
        shown = _reached_as(host)
        shown = f"[{shown}]" if ":" in shown else shown
        self.port = int(self._socket.getsockname()[1])
        self.url = f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")
        self._recording, self._watch = Recording(path), Watch(path)
        app = make_app(
            self._recording,
            self._watch,
            token=self.token,
            host=host,
            stopping=lambda: self._server.should_exit,
        )
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=TimedProtocol,
                limit_concurrency=CONNECTIONS,
                log_level="error",
                lifespan="off",
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=2,
            )
        )
        self._thread: threading.Thread | None = None

    def run(self, started: Callable[[], object] = lambda: None) -> None:
        """Serve until Ctrl-C; ``started`` is called once the server answers."""
        waiter = threading.Thread(target=self._tell, args=(started,), daemon=True)
        waiter.start()
        try:
            self._watch.start()
            with contextlib.suppress(KeyboardInterrupt):
                self._server.run(sockets=[self._socket])
        finally:
            self._end()

    def start(self) -> "Dashboard":
        """Serve in a thread; returns once the server answers."""
        self._watch.start()
        self._thread = threading.Thread(
            target=self._server.run,
            kwargs={"sockets": [self._socket]},
            name="clipwise-dashboard",
            daemon=True,
        )
        self._thread.start()
        self._tell(lambda: None)
        return self

    def stop(self) -> None:
        """Stop the server."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(timeout=10)
        self._end()

    def __enter__(self) -> "Dashboard":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tell(self, started: Callable[[], object]) -> None:
        while not self._server.started and not self._server.should_exit:
            time.sleep(0.01)
        started()

    def _end(self) -> None:
        self._server.should_exit = True
        self._watch.stop()
        self._recording.close()
        self._socket.close()


def _reached_as(host: str) -> str:
    """What others call an address: the machine's name, where it is every address of this one."""
    try:
        every = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        every = not host
    return socket.gethostname() if every else host


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens; the address is taken before anything is said about it."""
    if port is not None:
        whole("port", port, low=0, high=65535, allowed="a whole number from 0 to 65535")
    problem: OSError | None = None
    for one in (port,) if port is not None else (PORT, 0):
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                host, one, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            found = socket.socket(family, kind, proto)
            try:
                if os.name == "posix":
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                found.bind(address)
                found.listen(128)
            except BaseException:
                found.close()
                raise
            return found
        except OSError as error:
            problem = error
    raise ArgumentError(
        f"cannot listen on {host}, port {PORT if port is None else port}: {problem and problem.strerror}"
    )
