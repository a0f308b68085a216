"""One run on several devices: a process each, started and joined by Fabric.

The processes cannot share what the caller holds, so three things go between them: progress through a queue,
the wish to stop through an event, and the finished record, or the error, through a file.
"""

import itertools
import pickle
import tempfile
import threading
from collections.abc import Callable, Mapping
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
from clipwise.lab.training.devices import quiet
from clipwise.lab.training.interrupt import Interrupt
from clipwise.lab.training.loop import TrainingRun

__all__ = ["train_in_processes"]

ASK_EVERY = 10
"""Steps between two questions whether to stop: all processes answer, which waits for the devices."""


def train_in_processes(
    fabric: Fabric,
    config: LabConfig,
    clip: AnyClip | None,
    info: RunInfo,
    target: RecordingTarget,
    progress: Progress | None,
    checkpoint: Path | None,
) -> RunRecord:
    """`train` on ``config.devices`` devices; each trains on its part of every batch."""
    context = multiprocessing.get_context("spawn")
    messages, asked = context.Queue(), context.Event()
    reader = threading.Thread(target=_pass_on, args=(messages, progress), daemon=True)
    reader.start()
    with tempfile.TemporaryDirectory(prefix="clipwise-") as folder:
        outcome = Path(folder) / "outcome"
        with Interrupt(asked.set):
            fabric.launch(_Worker(config, clip, info, target, messages, asked, outcome, checkpoint))
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
    """What each process does; the first one speaks for all.

    It carries its arguments itself: Fabric would take dataclasses among them apart to look for modules.
    """

    def __init__(
        self,
        config: LabConfig,
        clip: AnyClip | None,
        info: RunInfo,
        target: RecordingTarget,
        messages: Any,
        asked: Any,
        outcome: Path,
        checkpoint: Path | None,
    ) -> None:
        self.config, self.clip, self.info, self.target = config, clip, info, target
        self.messages, self.asked = messages, asked
        self.outcome, self.checkpoint = outcome, checkpoint
        self.threads = torch.get_num_threads()  # `train` has set it; Fabric does not hand it on

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        quiet()  # here, where a new process gets its work: Fabric speaks before it calls

    def __call__(self, fabric: Fabric) -> None:
        torch.set_num_threads(self.threads)
        result: RunRecord | ClipwiseError | None
        # Ctrl-C in a terminal reaches every process; here it means nothing, the event does.
        with Interrupt(), denormals_as_zero():
            try:
                result = self._trained(fabric)
            except ClipwiseError as error:
                result = error
        if fabric.global_rank == 0:
            self.outcome.write_bytes(pickle.dumps(result))

    def _trained(self, fabric: Fabric) -> RunRecord | None:
        if fabric.global_rank:
            self._run(fabric, None, None)
            return None
        with RunLog(self.target, self.info, self.clip) as log:
            run = self._run(fabric, log, self._tell)
            if self.checkpoint is not None:
                run.save(self.checkpoint, self.info.clip)
            return log.finish(interrupted=run.interrupted)

    def _run(self, fabric: Fabric, log: RunLog | None, progress: Progress | None) -> TrainingRun:
        task = load_task(self.config)
        run = TrainingRun(fabric, self.config, task, self.clip, self.info.seed, log)
        run.train(self._stop(fabric), progress)
        return run

    def _tell(self, step: int, total: int, figures: Mapping[str, float]) -> None:
        self.messages.put((step, total, figures))

    def _stop(self, fabric: Fabric) -> Callable[[], bool]:
        """Whether to stop, the same answer in all processes: one that went on would wait for the others."""
        calls = itertools.count(1)

        def stop() -> bool:
            if next(calls) % ASK_EVERY:
                return False
            wish = torch.tensor(float(self.asked.is_set()), device=fabric.device)
            total: Any = fabric.all_reduce(wish, reduce_op="sum")
            return bool(total > 0)

        return stop
