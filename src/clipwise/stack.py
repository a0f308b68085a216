"""The caller's stack: which functions are being called, and which line a warning is about."""

import sys
import warnings
from collections.abc import Collection, Iterator
from types import FrameType


def frames_of(*functions: str, file: str | None = None) -> Iterator[FrameType]:
    """The active calls of functions with these names, or of functions defined in a file; the latest first.

    Do not read the locals of other frames: in Python 3.11 and 3.12 that copies them and keeps them alive.

    >>> def step():
    ...     return [frame.f_code.co_name for frame in frames_of("step")]
    >>> step()
    ['step']
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in functions or frame.f_code.co_filename == file:
            yield frame
        frame = frame.f_back


def warn(message: str, *, past: Collection[str] = ()) -> None:
    """Warn, with the line that called clipwise as the location.

    Args:
        message: the text.
        past: packages whose frames are skipped when that line is looked for, such as ``("torch",)``.
    """
    inside = {"clipwise", *past}
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
