"""Whether a process of this machine is still there."""

import os


def is_alive(pid: int) -> bool:
    """Whether a process is there; True where that cannot be asked, since signal 0 would end it."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
