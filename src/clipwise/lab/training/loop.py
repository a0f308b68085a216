"""The training loop itself: one process's part of one run."""

import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypeAlias

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from clipwise.clip import AnyClip, clip_by_global_norm
from clipwise.errors import ConfigError
from clipwise.lab.config.explain import shown
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.record import Evaluation, RunRecord
from clipwise.lab.tasks.models import ModelSpec, SequenceModel, State, build_model, detached
from clipwise.lab.tasks.task import Batch, Task
from clipwise.lab.training.checkpoint import Checkpoint, save_checkpoint
from clipwise.lab.training.optimizers import make_optimizer
from clipwise.lab.training.recorder import StepRecorder
from clipwise.torch import attach

__all__ = ["Progress", "Run"]

FLUSH_STEPS = 50
"""Steps after which the device is waited for, at the latest, and a run is checked for being past help."""

TOLD_SECONDS = 0.2
"""Time between two calls of the progress function, which wait for the device too."""

SHOWN = ("loss", "norm", "threshold", "clip_fraction")


Progress: TypeAlias = Callable[[int, int, dict[str, float]], None]
"""``progress(step, total, figures)``, called a few times a second with the steps taken, the steps to take,
and ``loss``, ``norm``, ``threshold`` and ``clip_fraction`` of the last step."""


class Run:
    """One run: a fresh model, its optimizer, the clip attached to it, and the record that is being written.

    Args:
        fabric: the process's Fabric, launched.
        config: the configuration.
        task: its task.
        clip: the clip; None trains without, and lets NaN and Inf through as a plain loop does.
        record: where the figures go.
    """

    def __init__(
        self, fabric: Fabric, config: LabConfig, task: Task, clip: AnyClip | None, record: RunRecord
    ) -> None:
        self.fabric, self.config, self.task, self.record = fabric, config, task, record
        torch.manual_seed(record.seed)
        self.model = _build(task.spec)
        # Every process starts from the same weights, but drops other activations.
        torch.manual_seed(record.seed + fabric.global_rank)
        training = config.training_parameters
        made = make_optimizer(training, self.model.parameters())
        self.wrapped, self.optimizer = fabric.setup(self.model, made)
        self.clipper = attach(
            made,
            clip if clip is not None else clip_by_global_norm(math.inf),
            model=self.model,
            nonfinite=training.nonfinite if clip is not None else "propagate",
        )
        self.states: list[State] = [None] * training.accumulate
        self.recorder = StepRecorder(record.steps)
        self.total = training.steps or (training.epochs or 1) * task.steps_per_epoch
        self.every = training.evaluate_every or max(1, self.total // 10)
        self.step = 0
        self._scaler_skips = 0
        self._since = 0.0

    def train(self, stop: Callable[[], bool], progress: Progress | None) -> None:
        """Train to the end, until ``stop()``, or until nothing can be learned any more."""
        batches = self.task.batches(self.record.seed)
        self._since = told = time.perf_counter()
        try:
            while self.step < self.total:
                self._one_step(next(batches))
                self.step += 1
                hopeless = self.step % FLUSH_STEPS == 0 and self._is_hopeless()
                if self.step % self.every == 0 and self.step < self.total and not hopeless:
                    self._evaluate()
                now = time.perf_counter()
                if progress is not None and now - told > TOLD_SECONDS:
                    told = now
                    self.recorder.flush()
                    progress(self.step, self.total, {name: self.recorder.latest[name] for name in SHOWN})
                if stop():
                    self.record.interrupted = self.step < self.total
                    break
                if hopeless:
                    break
        except KeyboardInterrupt:
            self.record.interrupted = True
        self._finish(progress)

    def save(self, path: Path) -> None:
        """Write the weights and what goes with them."""
        save_checkpoint(
            path,
            Checkpoint(
                config=self.config,
                model=self.model,
                clipper=self.clipper.state_dict(),
                clip=self.record.clip,
                seed=self.record.seed,
                step=self.step,
                metrics=self.record.final,
                details=self.task.details,
            ),
        )

    def _one_step(self, batch: Batch) -> None:
        training, fabric = self.config.training_parameters, self.fabric
        parts = training.accumulate * fabric.world_size
        losses: list[Tensor] = []
        self.optimizer.zero_grad()
        for i in range(training.accumulate):
            part = batch.part(fabric.global_rank * training.accumulate + i, parts).to(fabric.device)
            state = detached(self.states[i]) if part.continues else None
            with self._exchanging(last=i == training.accumulate - 1):
                outputs, self.states[i] = part.through(self.wrapped, state)
                loss = self.task.loss(outputs, part.y)
                fabric.backward(loss / training.accumulate)
            losses.append(loss.detach())
        loss = torch.stack(losses).mean()
        if fabric.world_size > 1:
            # Every process must see the same loss: a threshold that follows it would differ between them.
            loss = fabric.all_reduce(loss, reduce_op="mean")  # type: ignore[assignment]
        before = self.clipper.report
        self.clipper.observe(loss)
        self.optimizer.step()
        dropped = self.clipper.report is before  # a gradient scaler drops a step before the clipper sees it
        self._scaler_skips += dropped
        self.recorder.add(loss, None if dropped else self.clipper.report)

    @contextmanager
    def _exchanging(self, *, last: bool) -> Iterator[None]:
        """Gradients go between the processes once a step, with the last batch of it."""
        waits = self.fabric.world_size > 1 and not last
        with self.fabric.no_backward_sync(self.wrapped) if waits else nullcontext():
            yield

    def _is_hopeless(self) -> bool:
        """Whether a weight, or every loss of the last `FLUSH_STEPS` steps, is NaN or Inf."""
        self.recorder.flush()
        recent = self.record.steps["loss"][-FLUSH_STEPS:]
        if all(map(math.isfinite, recent)):
            return False
        return not any(map(math.isfinite, recent)) or not _all_finite(self.model)

    def _evaluate(self) -> None:
        self._stop_clock()
        figures = self.task.evaluate(self.model, self.fabric.device, self.fabric.autocast)
        self.record.evaluations.append(Evaluation(self.step, self.record.seconds, figures))
        self._since = time.perf_counter()

    def _stop_clock(self) -> None:
        self.recorder.flush()  # this waits for the device, so that its work is counted
        now = time.perf_counter()
        self.record.seconds += now - self._since
        self._since = now

    def _finish(self, progress: Progress | None) -> None:
        """The last figures, also of a run that was stopped: it is worth knowing how far it came."""
        self._stop_clock()
        evaluated = self.record.evaluations[-1].step if self.record.evaluations else 0
        try:
            if progress is not None and self.recorder.latest:
                progress(self.step, self.total, {name: self.recorder.latest[name] for name in SHOWN})
            if self.step > evaluated:
                self._evaluate()
        except KeyboardInterrupt:
            self.record.interrupted = True
        self.record.skipped_steps = self.clipper.skipped_steps + self._scaler_skips
        self.clipper.detach()


def _build(spec: ModelSpec) -> SequenceModel:
    try:
        return build_model(spec)
    except (RuntimeError, MemoryError, TypeError) as error:
        # torch says so in words, not with a class of its own; a size beyond 64 bits is a TypeError.
        if not isinstance(error, MemoryError) and not re.search("memory|overflow", str(error), re.IGNORECASE):
            raise
        raise ConfigError(
            "model_parameters: too large for the memory of this machine, with"
            f" hidden_size {shown(spec.hidden_size)}, layers {shown(spec.layers)}"
            f" and embedding_size {shown(spec.embedding_size)}"
        ) from error


def _all_finite(model: nn.Module) -> bool:
    return bool(torch.stack([p.detach().isfinite().all() for p in model.parameters()]).all())
