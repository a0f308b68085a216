"""The loop of the tasks that are no configuration of the lab: any model, losses from a generator."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from clipwise.clip import AnyClip, clip_by_global_norm
from clipwise.lab.config.sections import Decay
from clipwise.lab.record import RunRecord
from clipwise.lab.recording import RunLog
from clipwise.lab.suite.task import SuiteTask, Trial
from clipwise.lab.training.denormals import denormals_as_zero
from clipwise.lab.training.interrupt import Interrupt
from clipwise.lab.training.schedule import Schedule
from clipwise.torch import Clipper, attach

__all__ = ["LoopTask", "Training", "Update"]

CHECK_STEPS = 50
TOLD_SECONDS = 0.2

Update: TypeAlias = tuple[Tensor, int]
"""A loss, and the optimizer that takes a step on it."""


@dataclass(frozen=True)
class Training:
    """What a task needs for one training.

    Attributes:
        model: module that holds all parameters.
        optimizers: the clip is attached to each; the steps of the first are counted and recorded.
        updates: endless iterator of losses; a step is taken on each before the next is requested.
        evaluate: returns the held-out figures, computed on the same data every time.
        steps: number of steps of the first optimizer.
        evaluate_every: steps between two evaluations.
        done: takes the figures and returns whether the goal is reached, which ends the run.
        weights: clip of the weights after each step; None for no clip.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer]
    updates: Callable[[], Iterator[Update]]
    evaluate: Callable[[], dict[str, float]]
    steps: int
    evaluate_every: int
    done: Callable[[dict[str, float]], bool] = lambda figures: False
    weights: AnyClip | None = None


class LoopTask(SuiteTask):
    """A task with its own model and losses, which subclasses define in `build`."""

    def build(self, trial: Trial) -> Training:
        """Model, optimizers and losses, with torch's random state already set to the seed of the trial."""
        raise NotImplementedError

    def train(self, trial: Trial) -> RunRecord:
        info = trial.info(self.metric, lower_is_better=self.lower_is_better)
        clip = trial.method.parsed
        with (
            _own_random_state(trial.seed),
            denormals_as_zero(),
            Interrupt() as interrupt,
            RunLog(trial.target, info, clip) as log,
        ):
            training = self.build(trial)
            return _train(training, trial, log, lambda: interrupt.asked)


@contextmanager
def _own_random_state(seed: int) -> Iterator[None]:
    """torch's random state begun at the seed, and as it was at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _train(training: Training, trial: Trial, log: RunLog, stop: Callable[[], bool]) -> RunRecord:
    clip = trial.method.parsed
    clippers = [
        attach(
            one,
            clip if clip is not None else clip_by_global_norm(float("inf")),
            model=training.model,
            nonfinite="skip" if clip is not None else "propagate",
            weights=training.weights,
        )
        for one in training.optimizers
    ]
    warmup = training.steps // 10 if trial.variant.schedule else 0
    decay: Decay = "cosine" if trial.variant.schedule else "constant"
    schedules = [Schedule(one, training.steps, warmup=warmup, decay=decay) for one in training.optimizers]
    losses: deque[Tensor] = deque(maxlen=CHECK_STEPS)
    step, evaluated, interrupted = 0, 0, False
    since = told = time.perf_counter()
    apart = 0.0  # seconds of evaluations

    def evaluate() -> bool:
        nonlocal evaluated, apart
        began = time.perf_counter()
        with torch.no_grad():
            figures = training.evaluate()
        log.evaluation(step, began - since - apart, figures)
        evaluated = step
        apart += time.perf_counter() - began
        return training.done(figures)

    for loss, which in training.updates():
        if which == 0:
            for schedule in schedules:
                schedule.before(step)
        _step(training.optimizers[which], clippers[which], loss)
        if which:
            continue
        step += 1
        losses.append(loss.detach())
        log.step(step, losses[-1], clippers[0].report)
        now = time.perf_counter()
        if trial.progress is not None and now - told > TOLD_SECONDS:
            told = now
            trial.progress(step, training.steps, {"loss": float(losses[-1])})
        interrupted = stop()
        if interrupted or step == training.steps or (step % CHECK_STEPS == 0 and _hopeless(training, losses)):
            break
        if step % training.evaluate_every == 0 and evaluate():
            break
    if step > evaluated:
        evaluate()
    for clipper in clippers:
        clipper.detach()
    return log.finish(interrupted=interrupted and step < training.steps)


def _step(optimizer: Optimizer, clipper: Clipper, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    clipper.observe(loss.detach())
    optimizer.step()


def _hopeless(training: Training, losses: Sequence[Tensor]) -> bool:
    """Whether a weight, or every one of the last losses, is NaN or Inf."""
    finite = torch.stack([*losses]).isfinite()
    if bool(finite.all()):
        return False
    weights = training.model.parameters()
    return not bool(finite.any()) or any(not bool(each.detach().isfinite().all()) for each in weights)
