"""One run on several devices: a process each, started and joined by Fabric.

The processes cannot share what the caller holds, so three things go between them: progress through a queue,
the wish to stop through an event, and the finished record, or the error, through a file.
"""

import itertools
import pickle
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import multiprocessing

from clipwise.clip import AnyClip
from clipwise.errors import ClipwiseError
from clipwise.lab.config import LabConfig
from clipwise.lab.interrupt import Interrupt
from clipwise.lab.load import load_task
from clipwise.lab.loop import Progress, Run
from clipwise.lab.record import RunRecord

__all__ = ["train_in_processes"]


def train_in_processes(
    fabric: Fabric,
    config: LabConfig,
    clip: AnyClip | None,
    record: RunRecord,
    progress: Progress | None,
    checkpoint: Path | None,
) -> RunRecord:
    """`clipwise.lab.train.train` on ``config.devices`` devices; each trains on its part of every batch."""
    context = multiprocessing.get_context("spawn")
    messages, asked = context.Queue(), context.Event()
    reader = threading.Thread(target=_pass_on, args=(messages, progress), daemon=True)
    reader.start()
    with tempfile.TemporaryDirectory(prefix="clipwise-") as folder:
        outcome = Path(folder) / "outcome"
        with Interrupt(asked.set):
            work: Any = _work  # Fabric's annotation leaves out the further arguments
            fabric.launch(work, config, clip, record, messages, asked, outcome, checkpoint)
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


def _work(
    fabric: Fabric,
    config: LabConfig,
    clip: AnyClip | None,
    record: RunRecord,
    messages: Any,
    asked: Any,
    outcome: Path,
    checkpoint: Path | None,
) -> None:
    """What each process does; the first one speaks for all."""
    first = fabric.global_rank == 0

    calls = itertools.count(1)

    def stop() -> bool:
        # All processes must stop at the same step, or those that go on wait for the others for ever. Asking
        # them all waits for the device, so it is not done at every step.
        if next(calls) % 10:
            return False
        wish = torch.tensor(float(asked.is_set()), device=fabric.device)
        total: Any = fabric.all_reduce(wish, reduce_op="sum")
        return bool(total > 0)

    def tell(step: int, total: int, figures: dict[str, float]) -> None:
        messages.put((step, total, figures))

    result: RunRecord | ClipwiseError
    # Ctrl-C in a terminal reaches every process; here it means nothing, the event does.
    with Interrupt():
        try:
            run = Run(fabric, config, load_task(config), clip, record)
            run.train(stop, tell if first else None)
            if first and checkpoint is not None:
                run.save(checkpoint)
            result = record
        except ClipwiseError as error:
            result = error
    if first:
        outcome.write_bytes(pickle.dumps(result))
