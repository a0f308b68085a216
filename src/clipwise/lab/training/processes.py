"""One run on several devices: one process each, started and joined by Fabric, or started by ``torchrun``.

The processes that Fabric starts share no memory with the caller, so progress goes through a queue, the
request to stop through an event, and the record, or the error, through a file.
"""

import itertools
import pickle
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import multiprocessing

from clipwise.clip import AnyClip
from clipwise.errors import ClipwiseError
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.record import Progress, RunInfo, RunRecord
from clipwise.lab.recording import RecordingTarget, RunLog
from clipwise.lab.tasks.load import load_task
from clipwise.lab.training.denormals import denormals_as_zero
from clipwise.lab.training.devices import make_fabric, quiet
from clipwise.lab.training.interrupt import Interrupt
from clipwise.lab.training.loop import TrainingRun

__all__ = ["Share", "as_the_first", "train_in_processes", "train_share"]

ASK_EVERY = 10
"""Steps between two questions whether to stop: all processes answer, which waits for the devices."""


@dataclass(frozen=True)
class Share:
    """One process's part of a run on several devices: the arguments of `train`."""

    config: LabConfig
    clip: AnyClip | None
    info: RunInfo
    target: RecordingTarget
    checkpoint: Path | None

    def train(self, fabric: Fabric, asked: Callable[[], bool], progress: Progress | None = None) -> RunRecord:
        """Train on a part of every batch; all processes but the first return an empty record."""
        first = fabric.global_rank == 0
        with RunLog(self.target, self.info, self.clip) if first else nullcontext() as log:
            task = load_task(self.config)
            run = TrainingRun(fabric, self.config, task, self.clip, self.info.seed, log)
            run.train(_asked_of_all(fabric, asked), progress if first else None)
            if self.checkpoint is not None:
                run.save(self.checkpoint, self.info.clip)
            if log is None:
                return RunRecord(**asdict(self.info), interrupted=run.interrupted)
            return log.finish(interrupted=run.interrupted)


def train_share(fabric: Fabric, share: Share, progress: Progress | None) -> RunRecord:
    """`train` in one of the processes of ``torchrun``; passes Ctrl-C on."""
    with Interrupt(insists=False) as interrupt:
        return share.train(fabric, lambda: interrupt.asked, progress)


def as_the_first(config: LabConfig, value: Any) -> Any:
    """The object of the first process of ``torchrun``, in all of them."""
    fabric = make_fabric(config)
    fabric.launch()
    return fabric.broadcast(value)


def train_in_processes(fabric: Fabric, share: Share, progress: Progress | None) -> RunRecord:
    """`train` on several devices, in processes of its own."""
    context = multiprocessing.get_context("spawn")
    messages, asked = context.Queue(), context.Event()
    reader = threading.Thread(target=_pass_on, args=(messages, progress), daemon=True)
    reader.start()
    with tempfile.TemporaryDirectory(prefix="clipwise-") as folder:
        outcome = Path(folder) / "outcome"
        with Interrupt(asked.set):
            fabric.launch(_Worker(share, messages, asked, outcome))
        messages.put(None)
        reader.join()
        found: RunRecord | ClipwiseError = pickle.loads(outcome.read_bytes())
    if isinstance(found, ClipwiseError):
        raise found
    return found


def _pass_on(messages: Any, progress: Progress | None) -> None:
    while (message := messages.get()) is not None:
        if progress is not None:
            progress(*message)


class _Worker:
    """What each process does.

    It carries its arguments itself: Fabric would take dataclasses among them apart to look for modules.
    """

    def __init__(self, share: Share, messages: Any, asked: Any, outcome: Path) -> None:
        self.share, self.messages, self.asked, self.outcome = share, messages, asked, outcome
        self.threads = torch.get_num_threads()  # `train` has set it; Fabric does not hand it on

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        quiet()  # here, where a new process gets its work: Fabric speaks before it calls

    def __call__(self, fabric: Fabric) -> None:
        torch.set_num_threads(self.threads)
        result: RunRecord | ClipwiseError
        # Ctrl-C in a terminal reaches every process; here it means nothing, the event does.
        with Interrupt(), denormals_as_zero():
            try:
                result = self.share.train(fabric, self.asked.is_set, self._tell)
            except ClipwiseError as error:
                result = error
        if fabric.global_rank == 0:
            self.outcome.write_bytes(pickle.dumps(result))

    def _tell(self, step: int, total: int, figures: Mapping[str, float]) -> None:
        self.messages.put((step, total, figures))


def _asked_of_all(fabric: Fabric, asked: Callable[[], bool]) -> Callable[[], bool]:
    """Whether to stop, the same answer in all processes: one that went on would wait for the others."""
    calls = itertools.count(1)

    def stop() -> bool:
        if next(calls) % ASK_EVERY:
            return False
        wish = torch.tensor(float(asked()), device=fabric.device)
        total: Any = fabric.all_reduce(wish, reduce_op="sum")
        return bool(total > 0)

    return stop
