"""Trains a configuration with one clip and one seed, and returns the record."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from clipwise.clip import AnyClip
from clipwise.config.spelling import spelled
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.record import Progress, RunInfo, RunRecord
from clipwise.lab.recording import RecordingTarget, RunLog
from clipwise.lab.tasks.load import load_task
from clipwise.lab.training.denormals import denormals_as_zero
from clipwise.lab.training.devices import make_fabric
from clipwise.lab.training.interrupt import Interrupt
from clipwise.lab.training.launched import launched, on_all_devices
from clipwise.lab.training.loop import TrainingRun
from clipwise.lab.training.processes import Share, train_in_processes, train_share
from clipwise.lab.training.threads import threads

__all__ = ["train"]


def train(
    config: LabConfig,
    clip: AnyClip | None,
    *,
    label: str,
    role: str,
    seed: int | None = None,
    progress: Progress | None = None,
    checkpoint: Path | None = None,
    recording: RecordingTarget | None = None,
) -> RunRecord:
    """Train the model of a configuration once.

    Runs with the same configuration and seed start from the same weights and see the same data in the same
    order, whatever the clip. On one machine, two runs that also have the same clip are bit-identical. A run
    is ended if its weights, or its last 50 losses, are not finite: its record is shorter, and its last
    figures are NaN. Under ``torchrun`` all processes call this; the first one records, and the record of the
    others is empty.

    Args:
        config: created by `clipwise.lab.config.lab_config.load_config`.
        clip: the clip; None for no clipping, in which case NaN and Inf are not skipped either.
        label, role: names for the record, see `RunRecord`.
        seed: replaces the configuration's.
        progress: called a few times per second, see `Progress`.
        checkpoint: where to write the trained weights at the end, also of an interrupted run.
        recording: where to record each step; by default a temporary file.

    Returns:
        The record. After Ctrl-C it ends with the step that was in progress, and ``interrupted`` is True.

    Raises:
        ConfigError: the device or precision is not available here, or does not fit the data.
        DataError: the data cannot be found, verified or understood.
        NonFiniteError: a gradient is NaN or Inf and the configuration has ``nonfinite: "error"``.
        StoreError: the recording cannot be written.
    """
    config = on_all_devices(config)
    fabric = make_fabric(config)
    if launched() is not None:
        fabric.launch()  # here the others wait for the first, which has fetched the data by then
    task = load_task(config)
    info = RunInfo(
        label=label,
        clip=None if clip is None else spelled(clip),
        role=role,
        seed=config.seed if seed is None else seed,
        metric=task.metric,
        lower_is_better=task.lower_is_better,
    )
    with _reproducible(config), _target(recording) as target:
        if config.devices > 1:
            share = Share(config, clip, info, target, checkpoint)
            if launched() is not None:
                return train_share(fabric, share, progress)
            return train_in_processes(fabric, share, progress)  # Fabric hands the settings on to them
        with Interrupt() as interrupt, RunLog(target, info, clip) as log:
            run = TrainingRun(fabric, config, task, clip, info.seed, log)
            run.train(lambda: interrupt.asked, progress)
            interrupt.asked = False  # a second Ctrl-C waits until the files are written
            if checkpoint is not None:
                run.save(checkpoint, info.clip)
            return log.finish(interrupted=run.interrupted)


@contextmanager
def _target(recording: RecordingTarget | None) -> Iterator[RecordingTarget]:
    if recording is not None:
        yield recording
        return
    with TemporaryDirectory(prefix="clipwise-") as folder:
        yield RecordingTarget(Path(folder) / "run.db")


@contextmanager
def _reproducible(config: LabConfig) -> Iterator[None]:
    """torch's deterministic algorithms, wherever it has one; its global settings are put back at the end."""
    # cuBLAS reads this when it starts; without it, recurrent layers on a GPU add up in changing order.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    benchmark, threads_before = torch.backends.cudnn.benchmark, torch.get_num_threads()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(threads(config))
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())), denormals_as_zero():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
        torch.set_num_threads(threads_before)
