"""What became of a run: by what its processes wrote, and whether they are still there."""

import json
import os
import time
from typing import Any

from clipwise.monitor.store.records import Run
from clipwise.processes import is_alive, machine

ENDS = ("running", "failed", "lost", "stopped", "diverged", "finished")
"""What can have become of a process; of a run what comes first, of any of them."""

LOST_AFTER = 60.0
"""Seconds without a sign of life after which a process that cannot be looked for counts as lost."""
GONE_AFTER = 600.0
"""The same where there is a process of its number: in a container that is soon another one."""


def run_of(row: Any, writers: list[Any], steps: int) -> Run:
    """A run as its row, those of its processes and the largest number of a step say.

    Args:
        row: id, name, started, command, clip, facts.
        writers: rank, pid, machine, seen, status and note of each process.
        steps: the largest number of a step.
    """
    id_, name, started, command, clip, facts = row
    states = [_status(*writer) for writer in writers]
    status = next((s for s in ENDS if s in states), "lost")
    return Run(
        id=id_,
        name=name,
        started=started,
        status=status,
        seen=max((writer[3] for writer in writers), default=started),
        steps=steps,
        ranks=tuple(sorted({writer[0] for writer in writers})),
        command=command,
        clip=clip,
        facts=_facts(facts),
        note="\n".join(dict.fromkeys(writer[5] for writer in writers if writer[5])),
    )


def _facts(text: str) -> dict[str, Any]:
    """Facts are no part of what is measured: without them, as after damage, the run is read all the same."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _status(rank: int, pid: int, where: str, seen: float, status: str, note: str) -> str:
    if status != "running":
        return status
    here = os.name == "posix" and where == machine()
    if time.time() - seen > (GONE_AFTER if here else LOST_AFTER):
        return "lost"
    return "running" if not here or is_alive(pid) else "lost"
