"""How a run ended, from the exception that ended it."""

import sys

from clipwise.errors import TrainingStopped


def errors() -> tuple[BaseException | None, ...]:
    """The exception that is being handled, and the last uncaught one."""
    return sys.exc_info()[1], getattr(sys, "last_value", None)


def outcome(error: BaseException | None, stopped: bool) -> tuple[str, str]:
    """The status of a run, and a note.

    >>> outcome(ValueError("bad"), False), outcome(SystemExit(0), False)
    (('failed', 'ValueError: bad'), ('finished', ''))
    """
    if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
        return "stopped" if stopped else "finished", ""
    status = "stopped" if isinstance(error, TrainingStopped | KeyboardInterrupt) else "failed"
    return status, f"{type(error).__name__}: {error}"
