"""The caller's stack, read in one place: whose call is under way, and which line a warning is about."""

import sys
import warnings
from collections.abc import Collection, Iterator
from types import FrameType


def frames_of(*functions: str, file: str | None = None) -> Iterator[FrameType]:
    """The calls under way of functions of these names, or of those written in a file; the latest first.

    Ask no other frame for its locals: in Python 3.11 and 3.12 that copies them, and so keeps them alive.

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
    """Warn of the line that called clipwise.

    Args:
        message: what there is to say.
        past: packages whose own calls in between are not what is meant, such as ``("torch",)``.
    """
    inside = {"clipwise", *past}
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in inside:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)
