"""``python -m benchmarks.observing``: what ``clipwise observe`` adds to a step of a tiny model.

Three small layers, so that a step is little more than what Python makes of it. In one process stretches of
training without and with what ``clipwise observe`` puts into torch take turns. Times are those of the
processor, in the training's thread and in the others: the recorder's, which Python runs in turn with it.
For comparison the same of a `Monitor` on a clip that is attached already.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.optim import optimizer as torchs

from clipwise import clip_by_global_norm
from clipwise.monitor import Monitor
from clipwise.monitor.observe.bootstrap import SETTINGS, torch_hooks
from clipwise.monitor.observe.recording import monitor_here
from clipwise.monitor.observe.settings import Settings
from clipwise.torch import attach

WIDTHS = (8, 16, 16, 1)
"""Of the model: a few hundred weights."""

REST = 1.2
"""Seconds after which the recorder has written all."""


class Training:
    """The model and some steps of it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        layers: list[torch.nn.Module] = []
        for wide, narrow in pairwise(WIDTHS):
            layers += [torch.nn.Linear(wide, narrow), torch.nn.Tanh()]
        self.model = torch.nn.Sequential(*layers[:-1])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.x, self.y = torch.randn(32, WIDTHS[0]), torch.randn(32, 1)

    def steps(self, count: int) -> np.ndarray:
        """Microseconds of a step: by the wall, of the processor in this thread, and in the others."""
        start, others = _clocks(), _others()
        for _ in range(count):
            self.optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(self.model(self.x), self.y)
            loss.backward()
            self.optimizer.step()
            self.log(loss)
        spent = _clocks() - start
        time.sleep(REST)
        return np.array([*spent, _others() - others]) * 1e6 / count

    def log(self, loss: torch.Tensor) -> None:
        pass


class Clipped(Training):
    """The same with a clip, and perhaps a `Monitor` of it."""

    def __init__(self, monitor: Monitor | None = None) -> None:
        super().__init__()
        clipper = attach(self.optimizer, clip_by_global_norm(1e9))
        if monitor is not None:
            monitor.attach(clipper)
            self.log = lambda loss: monitor.log(loss=loss)  # type: ignore[method-assign]


class Observing:
    """What the first process of an observed command puts into torch, to be taken out and put in again."""

    def __init__(self) -> None:
        self._plain = self._state()
        torch_hooks.begin()
        self._observed = self._state()
        self._put(self._plain)

    @contextmanager
    def here(self) -> Iterator[None]:
        """While it is there."""
        self._put(self._observed)
        try:
            yield
        finally:
            self._put(self._plain)

    def _state(self) -> tuple[dict[int, Any], Any]:
        return dict(torchs._global_optimizer_pre_hooks), torch.autograd.backward

    def _put(self, state: tuple[dict[int, Any], Any]) -> None:
        hooks, torch.autograd.backward = state
        torchs._global_optimizer_pre_hooks.clear()
        torchs._global_optimizer_pre_hooks.update(hooks)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="pairs of stretches (%(default)s)")
    parser.add_argument("--steps", type=int, default=2000, help="steps of a stretch (%(default)s)")
    parser.add_argument("--profile", action="store_true", help="where the time goes, a thread each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(db=str(Path(folder) / "runs.db"), claims=folder)
        os.environ[SETTINGS] = json.dumps(vars(settings))
        observing, training = Observing(), Training()
        with observing.here():
            training.steps(50)
        if options.profile:
            _profile(observing, training, options.steps)
        else:
            _measure(observing, training, options.rounds, options.steps)
        monitor_here(settings).close()
        if not options.profile:
            _measure_monitor(Path(folder) / "monitor.db", options.rounds, options.steps)
    return 0


def _measure(observing: Observing, training: Training, rounds: int, steps: int) -> None:
    bare, seen = [], []
    for _ in range(rounds):
        bare.append(training.steps(steps))
        with observing.here():
            seen.append(training.steps(steps))
    _print("observing", bare, seen)


def _measure_monitor(database: Path, rounds: int, steps: int) -> None:
    bare, seen = [], []
    with Monitor(str(database)) as monitor:
        clipped, recorded = Clipped(), Clipped(monitor)
        for training in (clipped, recorded):
            training.steps(50)
        for _ in range(rounds):
            bare.append(clipped.steps(steps))
            seen.append(recorded.steps(steps))
    _print("a Monitor", bare, seen)


def _print(what: str, bare: list[np.ndarray], seen: list[np.ndarray]) -> None:
    added = np.array(seen) - np.array(bare)
    rows = {
        "a step without": np.array(bare)[:, 0],
        f"{what} adds by the wall": added[:, 0],
        "  in the training's thread": added[:, 1],
        "  in the recorder's thread": added[:, 2],
        "  in both": added[:, 1] + added[:, 2],
    }
    for name, found in rows.items():
        low, middle, high = np.percentile(found, [25, 50, 75])
        print(f"{name:28} {middle:7.1f} us   quartiles {low:.1f} to {high:.1f}")


def _profile(observing: Observing, training: Training, steps: int) -> None:
    import cProfile
    import pstats

    recorder = cProfile.Profile()
    flusher = monitor_here(Settings.here())._flusher
    turn = flusher._turn_over
    flusher._turn_over = lambda last=False: recorder.runcall(turn, last)  # type: ignore[method-assign]
    own = cProfile.Profile()
    with observing.here():
        own.runcall(training.steps, steps)
    for profile in (own, recorder):
        pstats.Stats(profile).sort_stats("tottime").print_stats(32)


def _clocks() -> np.ndarray:
    return np.array([time.perf_counter(), time.thread_time()])


def _others() -> float:
    return time.process_time() - time.thread_time()


if __name__ == "__main__":
    raise SystemExit(main())
