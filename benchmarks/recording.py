"""``python -m benchmarks.recording``: what recording adds to a training step.

The step is that of the lab's character model: an LSTM of 128 units, 20 sequences of 64 characters, SGD, a
global norm clipped by ``attach``. Stretches of training without and with a `Monitor` take turns; its thread
reads, judges and writes during its own stretches, as it does in a training, and the rest between them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

import clipwise
from benchmarks.machine import OtherWork, cpu_facts
from benchmarks.sheet import Sheet
from benchmarks.timing import paired
from clipwise.monitor import Monitor

CHARACTERS, HIDDEN, BATCH, LENGTH = 65, 128, 20, 64

KINDS = {
    "every step": {"layers_every": 0, "rules": []},
    "every step, the norm of each layer every 10": {"layers_every": 10, "rules": []},
    "the same, watched by all rules": {"layers_every": 10},
}
GOALS = {
    "every step": (2.0, 20.0),
    "every step, the norm of each layer every 10": (3.0, float("inf")),
}
"""What may be added: per cent of a step, and microseconds."""


class Training:
    """The model and one step of it."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(CHARACTERS, HIDDEN)
        self.lstm = torch.nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
        self.head = torch.nn.Linear(HIDDEN, CHARACTERS)
        self.model = torch.nn.ModuleList([self.embed, self.lstm, self.head])
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1.0)
        self.clipper = clipwise.torch.attach(
            self.optimizer, clipwise.clip_by_global_norm(0.1), model=self.model
        )
        self.text = torch.randint(CHARACTERS, (BATCH, LENGTH + 1))

    def step(self) -> torch.Tensor:
        out, _ = self.lstm(self.embed(self.text[:, :-1]))
        loss = torch.nn.functional.cross_entropy(self.head(out).flatten(0, 1), self.text[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


def stretch(training: Training, log: Callable[..., None] | None, steps: int) -> float:
    """Seconds of a step, the mean over a stretch."""
    start = time.perf_counter_ns()
    for _ in range(steps):
        loss = training.step()
        if log is not None:
            log(loss=loss)
    return (time.perf_counter_ns() - start) * 1e-9 / steps


def alone(monitor: Monitor, training: Training, calls: int = 500) -> float:
    """Seconds that the step itself spends on being recorded, the median; the thread's work is not in it."""
    loss, report, found = training.step(), training.clipper.report, []
    for _ in range(calls):
        start = time.perf_counter_ns()
        for follower in training.clipper.followers:
            follower(training.clipper, report, None)
        monitor.log(loss=loss)
        found.append((time.perf_counter_ns() - start) * 1e-9)
    return float(np.median(found))


def measure(
    kind: str, seconds: float, rounds: int, tick: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Seconds of a step in each round, without and with the monitor; and those that are spent in the step."""
    training = Training()
    one = stretch(training, None, 20)
    steps = max(10, int(seconds / one))
    bare, recorded, inside = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            bare.append(stretch(training, None, steps))
            with Monitor(Path(folder) / "runs.db", **KINDS[kind]) as monitor:  # type: ignore[arg-type]
                monitor.attach(training.clipper)
                stretch(training, monitor.log, 10)
                recorded.append(stretch(training, monitor.log, steps))
                inside.append(alone(monitor, training))
            tick()
    return np.array(bare), np.array(recorded), float(np.median(inside))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recording", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds: to see that it works")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (%(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    seconds, rounds = (0.2, 2) if options.quick else (1.5, 16)
    other = OtherWork()
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("recording", total=len(KINDS) * rounds)
        rows = [_row(kind, *measure(kind, seconds, rounds, lambda: progress.advance(task))) for kind in KINDS]
    facts = {**cpu_facts(other), "torch": f"{torch.__version__}, threads: {options.threads}"}
    header = ("recorded", "step", "adds", "quartiles", "in the step itself", "goal", "reached")
    sheet = Sheet("What recording adds to a step", facts, header, rows)
    sheet.show()
    sheet.save(options.markdown)
    return 0


def _row(kind: str, bare: np.ndarray, recorded: np.ndarray, inside: float) -> list[str]:
    found, added = paired(recorded, bare), inside * 1e6
    share, low, high = (100 * (value - 1) for value in (found.ratio, found.low, found.high))
    percent, micro = GOALS.get(kind, (float("inf"), float("inf")))
    goal = f"{percent:g} %" + (f", {micro:g} us" if micro < float("inf") else "") if kind in GOALS else "–"
    reached = ("yes" if share <= percent and added < micro else "no") if kind in GOALS else "–"
    return [
        kind,
        f"{found.ours * 1e3:.3f} ms",
        f"{share:+.2f} %",
        f"{low:+.2f} to {high:+.2f} %",
        f"{added:.1f} us",
        goal,
        reached,
    ]


if __name__ == "__main__":
    raise SystemExit(main())
