"""The recorder of a process, made when it is needed: at the first step of an optimizer."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clipwise.monitor._identity import rank_here
from clipwise.monitor.observe.settings import Settings
from clipwise.monitor.recorder import Monitor

_here: dict[int, Monitor] = {}
"""The recorder of this process, by its id: a fork begins with its parent's."""


def monitor_here(settings: Settings) -> Monitor:
    """The recorder of this process, whatever trains in it."""
    if os.getpid() not in _here:
        _here.clear()
        _here[os.getpid()] = open_monitor(settings)
    return _here[os.getpid()]


def open_monitor(settings: Settings) -> Monitor:
    """The recorder of this process; processes that train something of their own get a run of their own.

    Ranks of one training belong to one run. A second process of the same rank is another training of the same
    command (a search, a script that starts several, a restart): its run has ``-2`` behind its name.
    """
    rank = _rank()
    turn = _claim(Path(settings.claims), rank)
    with _run_named(f"-{turn}" if turn > 1 else ""):
        monitor = Monitor(
            settings.db,
            every=settings.every,
            layers_every=settings.layers_every,
            facts={"observed": True},
        )
    monitor.rank = rank
    _close_at_end(monitor)
    return monitor


def _rank() -> int:
    """The rank of this process; ``multiprocessing`` tells it to torch only, and not to the environment."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return rank_here()


def _claim(folder: Path, rank: int) -> int:
    """Which one of the processes of this rank this is, from 1 on."""
    turn = 1
    while True:
        try:
            os.close(os.open(folder / f"{rank}-{turn}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            turn += 1
        except OSError:  # the folder has gone with the process that started the command
            return turn
        else:
            return turn


@contextmanager
def _run_named(suffix: str) -> Iterator[None]:
    """Let a `Monitor` that is made meanwhile belong to another run."""
    before = {name: os.environ[name] for name in ("CLIPWISE_RUN", "CLIPWISE_RUN_NAME")}
    try:
        os.environ.update({name: value + suffix for name, value in before.items()})
        yield
    finally:
        os.environ.update(before)


def _close_at_end(monitor: Monitor) -> None:
    """Processes of ``multiprocessing`` end without calling what is registered with ``atexit``."""
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(monitor, monitor.close, exitpriority=100)
