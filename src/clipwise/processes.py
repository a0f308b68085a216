"""Which machine this is, whether one of its processes is still there, and how further ones are ended."""

import os
import platform
import signal
import socket
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Linux draws it anew whenever the machine starts."""


def machine() -> str:
    """What process numbers are counted in: a host and, where it has containers, the part of it seen here.

    Machines that were made of one image often have one name, hence what tells them apart beside it.
    """
    try:
        host, space = BOOT.read_text(encoding="ascii").strip(), os.readlink("/proc/self/ns/pid")
    except OSError:
        host, space = f"{uuid.getnode():x}", platform.system()  # the number of its network card
    return f"{socket.gethostname()} {host} {space}"


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


def end(processes: "Iterable[subprocess.Popen[Any]]") -> None:
    """End processes as Ctrl-C does, so that they give back what they hold, and wait for them."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        if os.name == "posix":
            process.send_signal(signal.SIGINT)
        else:
            process.terminate()
    for process in running:
        process.wait()
