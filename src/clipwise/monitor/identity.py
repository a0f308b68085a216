"""Which run this process belongs to, and which of its processes it is."""

import os
import sys
import time
import uuid
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """What a process of a run is.

    Attributes:
        uid: of the run, the same in all its processes.
        run: what people call it.
        rank: of this process.
    """

    uid: str
    run: str
    rank: int


def identity(name: str | None) -> Identity:
    """Who this process is, as its environment says."""
    return Identity(*run_here(name), rank_here())


def rank_here() -> int:
    """The rank of this process, as torchrun, Accelerate and similar launchers set it; 0 without them."""
    for name in ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK"):
        text = os.environ.get(name, "")
        if text.isdigit():
            return int(text)
    return 0


def run_here(name: str | None) -> tuple[str, str]:
    """What tells the run from all others, the same in all its processes; and what people call it.

    Processes that were started together for one training know each other by the port on which they meet.
    ``clipwise observe`` says both to the processes that it starts.
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
