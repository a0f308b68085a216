"""Running cells: one process of any number that share a store."""

import platform
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median
from traceback import extract_tb
from typing import Protocol

from clipwise.errors import ClipwiseError, StoreError
from clipwise.lab.record import Progress
from clipwise.lab.recording import RecordingTarget
from clipwise.lab.suite.cells import Cell, Key
from clipwise.lab.suite.lease import Lease
from clipwise.lab.suite.store import SuiteStore
from clipwise.lab.suite.task import Result, run

__all__ = ["Onlooker", "State", "environment", "state_of", "work"]


class Onlooker(Protocol):
    """Receives the progress of the cells that this process runs."""

    def begin(self, cell: Cell, state: "State") -> Progress | None: ...

    def end(self, cell: Cell, result: Result | None, error: str, state: "State") -> None: ...


@dataclass(frozen=True)
class State:
    """Progress of all processes together.

    Attributes:
        done: number of finished cells.
        failed: number of failed cells.
        total: number of requested cells.
        left: estimated seconds until all cells are finished.
    """

    done: int
    failed: int
    total: int
    left: float


def work(
    store: SuiteStore,
    wanted: Sequence[Cell],
    db: Path,
    onlooker: Onlooker,
    *,
    processes: int = 1,
    stop: Callable[[], bool] = lambda: False,
    tried: list[Key] | None = None,
) -> State:
    """Run requested cells that are neither finished nor running elsewhere, until none is left.

    A cell whose data or packages are missing, or whose training raises any other error, fails, and a later
    call tries it again. Other cells are not affected.

    Args:
        store: the store of claims and results.
        wanted: all cells of the call, including finished ones.
        db: the recording of all runs.
        onlooker: receives the progress.
        processes: number of processes that share the work, for the estimate of the time left.
        stop: called before each cell; True ends the work.
        tried: the cells that have failed in this call are added to it, and not tried again.

    Returns:
        The progress of all processes when this one has nothing more to do.

    Raises:
        KeyboardInterrupt: Ctrl-C; the claim of the current cell is released.
        StoreError: the store or the recording cannot be written.
    """
    tried = [] if tried is None else tried
    about = environment()
    while not stop() and (cell := store.claim(wanted, tried=tried)) is not None:
        result, error = None, ""
        with Lease(store, cell):
            progress = onlooker.begin(cell, state_of(store, wanted, processes, tried))
            target = RecordingTarget(db, f"{cell.task.name}, {cell.budget}", {"suite": vars(cell.key)})
            try:
                result = run(cell.task, cell.method, cell.seed, cell.budget, target, progress)
            except StoreError:
                raise
            except Exception as failed:
                error = _said(failed)
                tried.append(cell.key)
        if result is None:
            store.fail(cell, error, about)
        else:
            store.finish(cell, result, about)
        onlooker.end(cell, result, error, state_of(store, wanted, processes, tried))
    return state_of(store, wanted, processes, tried)


def _said(error: Exception) -> str:
    """Why a cell failed; of an error that is not clipwise's own also which, and where."""
    if isinstance(error, ClipwiseError):
        return str(error)
    place = extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"


def state_of(
    store: SuiteStore, wanted: Sequence[Cell], processes: int = 1, tried: Collection[Key] = ()
) -> State:
    """How far all processes together are.

    A cell takes what its task says, times the median of what its finished cells took beside that, or that of
    all tasks where none is finished. A cell that is running counts half. One that has failed counts, too,
    unless this call has tried it.
    """
    finished = store.finished()
    keys = {cell.key: cell for cell in wanted}
    running = {key: process for key, process in store.running().items() if key in keys}
    factors: dict[str, list[float]] = {}
    for key, found in finished.items():
        if key in keys and found.result is not None:
            factors.setdefault(key.task, []).append(found.result.seconds / keys[key].seconds)
    # Medians: a machine that was busy for a while is no sign for what is left.
    of_task = {task: median(some) for task, some in factors.items()}
    usual = median(one for some in factors.values() for one in some) if factors else 1.0
    left = 0.0
    for key, cell in keys.items():
        known = finished.get(key)
        if known is None or (known.result is None and key not in tried):
            left += cell.seconds * of_task.get(key.task, usual) * (0.5 if key in running else 1.0)
    failed = sum(finished[key].result is None for key in keys if key in finished)
    done = sum(key in finished for key in keys) - failed
    workers = max(processes, len(set(running.values())))
    return State(done, failed, len(keys), left / workers)


def environment() -> dict[str, str]:
    """The versions and the processor that numbers and times depend on."""
    versions = {name: metadata.version(name) for name in ("clipwise", "torch", "numpy")}
    return versions | {"Python": platform.python_version(), "processor": processor()}


def processor() -> str:
    """The name of the processor where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"
