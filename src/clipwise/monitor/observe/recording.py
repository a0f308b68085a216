"""The recorder of a process, made when it is needed: at the first step of an optimizer."""

import contextlib
import functools
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

from clipwise.monitor._adam import eps_of, of_clipper
from clipwise.monitor._values import as_number
from clipwise.monitor.identity import Identity, rank_here, run_here
from clipwise.monitor.observe.settings import Settings
from clipwise.monitor.recorder import Monitor

_here: "list[Recorder]" = []
"""The recorder of this process, if it has one."""

_making = threading.Lock()


def monitor_here(settings: Settings) -> "Recorder":
    """The recorder of this process, whatever trains in it, in whichever threads."""
    with _making:
        if not _here:
            _here.append(open_monitor(settings))
        return _here[0]


def _after_fork() -> None:
    """A fork begins with its parent's recorder, and perhaps with a lock that another thread held."""
    global _making
    _making = threading.Lock()
    _here.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Recorder(Monitor):
    """The recorder of one of several processes of the same rank: the turn is behind the name of its run."""

    def __init__(self, settings: Settings, turn: int, rank: int) -> None:
        self._suffix, self._rank = f"-{turn}" if turn > 1 else "", rank
        super().__init__(
            settings.db,
            every=settings.every,
            layers_every=settings.layers_every,
            facts={"observed": True, "sweep": os.environ.get("CLIPWISE_RUN_NAME", "")},
        )

    def name_unnamed(self, title: str) -> None:
        """What the source "" is called, where others come; before the first step is handed over."""
        self._facts.setdefault("unnamed", title)

    def take(self, report: Any, *, step: int, name: str, loss: Any) -> None:
        """Record a step and its loss, None where there is none: one entry and one row for both."""
        if loss is not None and loss.__class__ is not float:
            loss = as_number("loss", loss)
        self._intake.take(step, report, name, () if loss is None else (("loss", loss),))

    def know_optimizer(self, optimizer: Any, order: float, name: str) -> None:
        """What is recorded once of one whose gradients are measured in norms of this order."""
        eps = eps_of(optimizer.param_groups)
        if eps is not None and order == 2.0:
            entries = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
            self._intake.know_adam(1, name, (eps, float(entries)))

    def know_clipper(self, clipper: Any, name: str) -> None:
        """The same of those that a clipper acts on."""
        self._intake.know_adam(clipper.steps, name, of_clipper(clipper))

    def _identity(self, run: str | None) -> Identity:
        uid, name = run_here(run)
        return Identity(uid + self._suffix, name + self._suffix, self._rank)


def open_monitor(settings: Settings) -> "Recorder":
    """The recorder of this process; processes that train something of their own get a run of their own.

    Ranks of one training belong to one run. A second process of the same rank is another training of the same
    command (a search, a script that starts several, a restart): its run has ``-2`` behind its name.
    """
    rank = _rank()
    monitor = Recorder(settings, _claim(Path(settings.claims), rank), rank)
    _close_at_end(monitor)
    return monitor


def _rank() -> int:
    """The rank of this process; ``multiprocessing`` tells it to torch only, and not to the environment."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return rank_here()


def has_stepped(folder: Path) -> bool:
    """Whether any process of the command was about to record something."""
    return any(one.name.partition("-")[0].isdigit() for one in folder.iterdir())


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


def _close_at_end(monitor: Monitor) -> None:
    """``os._exit``, and processes of multiprocessing, call nothing that is registered with ``atexit``."""
    leave = os._exit

    @functools.wraps(leave)
    def closing(status: int) -> NoReturn:
        if monitor in _here:  # it is this process', and no fork's parent's
            with contextlib.suppress(Exception):
                monitor.close(None if status == 0 else "failed")
        leave(status)

    os._exit = closing
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(monitor, monitor.close, exitpriority=100)
