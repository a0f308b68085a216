"""The run that this process belongs to, and its rank in it."""

import os
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """The role of a process in a run.

    Attributes:
        uid: id of the run, the same in all its processes.
        run: name of the run.
        rank: rank of this process.
    """

    uid: str
    run: str
    rank: int


def identity(name: str | None) -> Identity:
    """The identity of this process, from its environment."""
    return Identity(*run_here(name), rank_here())


def rank_here() -> int:
    """The rank of this process, as torchrun, Accelerate and similar launchers set it; 0 without them."""
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        text = os.environ.get(name, "")
        if text.isdigit():
            return int(text)
    return 0


def run_here(name: str | None) -> tuple[str, str]:
    """An id of the run, which is the same in all its processes, and its name.

    Processes of one distributed training recognise each other by their rendezvous port. ``clipwise observe``
    passes both to the processes that it starts.
    """
    said = os.environ.get("CLIPWISE_RUN")
    script = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in ("", "-c") else "run"
    called = name or os.environ.get("CLIPWISE_RUN_NAME") or f"{script}-{time.strftime('%Y%m%d-%H%M%S')}"
    if said:
        return said, called
    if int(os.environ.get("WORLD_SIZE", "1") or 1) > 1 and "MASTER_PORT" in os.environ:
        meeting = [os.environ.get(key, "") for key in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT")]
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
        return "-".join([*meeting, attempt, str(os.getppid()), name or ""]), called
    return uuid.uuid4().hex, called
