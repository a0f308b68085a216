"""Who holds a claim, whether it is still there, and how it keeps what it holds."""

import threading
import warnings
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING

from clipwise.errors import StoreError
from clipwise.lab.suite.cells import Cell

if TYPE_CHECKING:
    from clipwise.lab.suite.store import SuiteStore

__all__ = ["LEASE", "Lease"]

LEASE = 180.0
"""Seconds for which a claim holds unless it is renewed."""
RENEW = 30.0


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
            except Exception as error:  # said, and tried again: without its claim the cell would be run twice
                said = f"the claim of {self._cell} was not renewed: {type(error).__name__}: {error}"
                warnings.warn(said, stacklevel=1)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is not None:
            with suppress(StoreError):  # a claim that cannot be given back just now runs out by itself
                self._store.release(self._cell)
