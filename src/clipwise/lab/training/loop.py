"""The training loop of one process of a run."""

import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from clipwise.clip import AnyClip, clip_by_global_norm
from clipwise.errors import ConfigError
from clipwise.lab.config.explain import shown
from clipwise.lab.config.lab_config import LabConfig
from clipwise.lab.record import Progress
from clipwise.lab.recording import DROPPED, RunLog
from clipwise.lab.tasks.models import ModelSpec, SequenceModel, State, build_model, detached
from clipwise.lab.tasks.task import SequenceBatch, Task
from clipwise.lab.training.checkpoint import Checkpoint, save_checkpoint
from clipwise.lab.training.optimizers import make_optimizer
from clipwise.lab.training.schedule import Schedule
from clipwise.lab.training.sharding import whole_model
from clipwise.report import ClipReport
from clipwise.torch import attach

__all__ = ["TrainingRun"]

CHECK_STEPS = 50
"""Steps after which a run is checked for being past help, which waits for the device."""

TOLD_SECONDS = 0.2
"""Time between two calls of the progress function, which wait for the device too."""

SHOWN = ("norm", "threshold", "clip_fraction")


class TrainingRun:
    """One run: a new model, its optimizer, and the attached clip.

    Args:
        fabric: the process's Fabric, launched.
        config: the configuration.
        task: its task.
        clip: the clip; None trains without, and does not skip NaN and Inf, like a plain loop.
        seed: seed of the weights and of the order of the data.
        log: records the figures; None in all processes but the first.

    Attributes:
        step: number of steps taken.
        figures: the last held-out figures.
        interrupted: whether it was stopped before its end.
    """

    def __init__(
        self,
        fabric: Fabric,
        config: LabConfig,
        task: Task,
        clip: AnyClip | None,
        seed: int,
        log: RunLog | None,
    ) -> None:
        self.fabric, self.config, self.task, self.seed, self.log = fabric, config, task, seed, log
        torch.manual_seed(seed)
        self.model = _build(task.spec)
        # Every process starts from the same weights, but drops other activations.
        torch.manual_seed(seed + fabric.global_rank)
        training = config.training_parameters
        self.wrapped = fabric.setup_module(self.model)
        made = make_optimizer(training, self.model.parameters())  # of the parts, where it was taken apart
        self.optimizer: Any = fabric.setup_optimizers(made)
        self.clipper = attach(
            made,
            clip if clip is not None else clip_by_global_norm(math.inf),
            model=self.model,
            nonfinite=training.nonfinite if clip is not None else "propagate",
        )
        self.states: list[State] = [None] * training.accumulate
        self.total = training.steps or (training.epochs or 1) * task.steps_per_epoch
        self.schedule = Schedule(made, self.total, warmup=training.warmup, decay=training.decay)
        self.every = training.evaluate_every or max(1, self.total // 10)
        self.step = 0
        self.figures: dict[str, float] = {}
        self.interrupted = False
        self._losses: deque[Tensor] = deque(maxlen=CHECK_STEPS)
        self._report: ClipReport | None = None  # of the last step
        self._evaluated = 0
        self._seconds = self._since = 0.0

    def train(self, stop: Callable[[], bool], progress: Progress | None) -> None:
        """Train until the end, until ``stop()`` returns True, or until the run is hopeless."""
        batches = self.task.batches(self.seed)
        self._since = told = time.perf_counter()
        try:
            while self.step < self.total:
                self.schedule.before(self.step)
                self._one_step(next(batches))
                self.step += 1
                hopeless = self.step % CHECK_STEPS == 0 and self._is_hopeless()
                if self.step % self.every == 0 and self.step < self.total and not hopeless:
                    self._evaluate()
                now = time.perf_counter()
                if progress is not None and now - told > TOLD_SECONDS:
                    told = now
                    progress(self.step, self.total, self._shown())
                if stop():
                    self.interrupted = self.step < self.total
                    break
                if hopeless:
                    break
        except KeyboardInterrupt:
            self.interrupted = True
        self._finish(progress)

    def save(self, path: Path, clip: str | None) -> None:
        """Write the weights with their metadata, including the clip in its string form.

        Every process calls it; the first one writes.
        """
        model, clipper = whole_model(self.model), self.clipper.state_dict()
        if self.fabric.global_rank:
            return
        save_checkpoint(
            path,
            Checkpoint(
                config=self.config,
                model=model,
                clipper=clipper,
                clip=clip,
                seed=self.seed,
                step=self.step,
                metrics=self.figures,
                details=self.task.details,
            ),
        )

    def _one_step(self, batch: SequenceBatch) -> None:
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
        # A gradient scaler drops a step before the clipper sees it.
        self._report = None if self.clipper.report is before else self.clipper.report
        self._losses.append(loss)
        if self.log is not None:
            self.log.step(self.step + 1, loss, self._report)

    @contextmanager
    def _exchanging(self, *, last: bool) -> Iterator[None]:
        """Gradients go between the processes once a step, with the last batch of it."""
        waits = self.fabric.world_size > 1 and not last
        with self.fabric.no_backward_sync(self.wrapped) if waits else nullcontext():
            yield

    def _is_hopeless(self) -> bool:
        """Whether a weight, or every loss of the last `CHECK_STEPS` steps, is NaN or Inf."""
        finite = torch.stack([*self._losses]).isfinite()
        if bool(finite.all()):
            return False
        return not bool(finite.any()) or not self._has_finite_weights()

    def _has_finite_weights(self) -> bool:
        here = [p.to_local() if hasattr(p, "to_local") else p for p in self.model.parameters()]
        lost = torch.stack([(~part.detach().isfinite()).any() for part in here]).any().float()
        return not bool(self.fabric.all_reduce(lost, reduce_op="sum"))

    def _shown(self) -> dict[str, float]:
        """What progress tells of the last step."""
        values = DROPPED if self._report is None else vars(self._report)
        return {"loss": float(self._losses[-1])} | {name: float(values[name]) for name in SHOWN}

    def _evaluate(self) -> None:
        self._stop_clock()
        self.figures = self.task.evaluate(self.model, self.fabric.device, self.fabric.autocast)
        self._evaluated = self.step
        self._log_figures(self.figures)
        self._since = time.perf_counter()

    def _log_figures(self, figures: dict[str, float]) -> None:
        if self.log is not None:
            self.log.evaluation(self.step, self._seconds, figures)

    def _stop_clock(self) -> None:
        if self._losses:
            self._losses[-1].item()  # this waits for the device, so that its work is counted
        now = time.perf_counter()
        self._seconds += now - self._since
        self._since = now

    def _finish(self, progress: Progress | None) -> None:
        """The last figures, also of a run that was stopped: it is worth knowing how far it came."""
        self._stop_clock()
        try:
            if progress is not None and self._losses:
                progress(self.step, self.total, self._shown())
            if self.step > self._evaluated:
                self._evaluate()
        except KeyboardInterrupt:
            self.interrupted = True
            if self.step > self._evaluated:
                self._log_figures({})
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
