"""Who holds a claim, whether it is still there, and how it keeps what it holds."""

import os
import platform
import socket
import threading
import uuid
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from clipwise.errors import StoreError
from clipwise.lab.suite.cells import Cell

if TYPE_CHECKING:
    from clipwise.lab.suite.store import SuiteStore

__all__ = ["LEASE", "Lease", "machine"]

LEASE = 180.0
"""Seconds for which a claim holds unless it is renewed."""
RENEW = 30.0
BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Linux draws it anew whenever the machine starts."""


class Lease:
    """Renews the claim of a cell while it is entered; a cell that is left by an error is given back."""

    def __init__(self, store: "SuiteStore", cell: Cell) -> None:
        self._store, self._cell, self._over = store, cell, threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def _renew(self) -> None:
        while not self._over.wait(RENEW):
            # A store that is busy just now may not be the next time; the lease is long enough for both.
            try:
                self._store.renew(self._cell)
            except StoreError:
                continue

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is not None:
            self._store.release(self._cell)


def machine() -> str:
    """What process numbers are counted in: a host and, where it has containers, the part of it seen here.

    Machines that were made of one image often have one name, hence what tells them apart beside it.
    """
    try:
        host, space = BOOT.read_text(encoding="ascii").strip(), os.readlink("/proc/self/ns/pid")
    except OSError:
        host, space = f"{uuid.getnode():x}", platform.system()  # the number of its network card
    return f"{socket.gethostname()} {host} {space}"
