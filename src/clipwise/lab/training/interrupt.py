"""Handles Ctrl-C between two steps."""

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

__all__ = ["Interrupt"]


class Interrupt:
    """A context in which the first Ctrl-C only sets ``asked``, and the second one raises KeyboardInterrupt.

    So a step is never interrupted halfway, and what was trained can be saved. Outside of the main thread,
    where Python delivers no signals, it does nothing.

    Args:
        tell: called on the first Ctrl-C, to pass it on.
        insists: whether the second one raises; if not, it is ignored.
    """

    def __init__(self, tell: Callable[[], None] | None = None, *, insists: bool = True) -> None:
        self.asked = False
        self._insists = insists
        self._tell = tell
        self._before: Callable[[int, FrameType | None], object] | int | None = None
        self._installed = False

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.SIG_DFL if self._before is None else self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            if self._insists:
                raise KeyboardInterrupt
            return
        self.asked = True
        if self._tell is not None:
            self._tell()
