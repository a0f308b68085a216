"""One row: a call of one model, its time on the slower rank, and what it sends."""

import dataclasses
import gc
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import clipwise
from benchmarks import peers
from benchmarks.sharded.models import CASES, RANKS, Model, Sent

__all__ = ["PEERS", "Row", "measured"]

PEERS = {
    "torch": nn.utils.clip_grad_norm_,
    "torchtitan's way": peers.clip_whole_norm_,
    "Accelerate's way": peers.clip_by_mesh_,
}


class Still(torch.optim.Optimizer):
    """An optimizer that does nothing, so that a step is what `attach` adds to it."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__(parameters, {})

    def step(self, closure: Any = None) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Row:
    """One call of one model: seconds, what it sends, and peer / ours of the host's time."""

    case: str
    call: str
    seconds: float
    host: float
    collectives: int
    bytes: int
    ratios: dict[str, tuple[float, float, float]] = dataclasses.field(default_factory=dict)
    missed: tuple[str, ...] = ()


def rows_of(name: str, rounds: int | None) -> list[Row]:
    """The rows of one model, the same ones on every rank."""
    case = CASES[name]
    model, attached = Model(case), Model(case)  # what is attached to one hears who clips it else
    threshold = model.norm / 2
    optimizer = Still(attached.parameters)
    clipwise.torch.attach(optimizer, clipwise.clip_by_global_norm(threshold), model=attached.module)
    calls: dict[str, Callable[[], object]] = {
        **{name: _bound(function, model.parameters, threshold) for name, function in PEERS.items()},
        "drop-in": _bound(clipwise.torch.clip_grad_norm_, model.parameters, threshold),
        "attach": optimizer.step,
    }
    models = [*[model] * (len(calls) - 1), attached]
    sent = {}
    for one, (call, function) in zip(models, calls.items(), strict=True):
        for _ in range(2):  # in the first step the ranks also compare what they have
            one.restore()
            with Sent() as counter:
                function()
        one.check(call, threshold, 1e-2 if call in PEERS else 1e-5)  # they sum millions of squares in float32
        sent[call] = counter
    times = _times(models, list(calls.values()), rounds or case.rounds)
    dist.all_reduce(times, dist.ReduceOp.MAX)  # the slower rank's
    wall, host = times.numpy()
    order = list(calls)
    found = []
    for i, call in enumerate(order):
        ratios = {}
        if call not in PEERS:
            for peer in PEERS:
                low, middle, high = np.percentile(host[:, order.index(peer)] / host[:, i], [25, 50, 75])
                ratios[peer] = (float(low), float(middle), float(high))
        missed = [f"{peer}" for peer, (_, middle, _) in ratios.items() if case.goal and middle < case.goal]
        if ratios and sent[call].collectives > min(sent[peer].collectives for peer in PEERS):
            missed.append("collectives")
        seconds, own = (float(np.median(one[:, i])) for one in (wall, host))
        found.append(
            Row(name, call, seconds, own, sent[call].collectives, sent[call].bytes, ratios, tuple(missed))
        )
    return found


def _bound(function: Any, parameters: Sequence[Tensor], threshold: float) -> Callable[[], object]:
    return lambda: function(parameters, threshold)


def _times(
    models: Sequence[Model], calls: Sequence[Callable[[], object]], rounds: int, warm: int = 3
) -> Tensor:
    """Seconds by the wall and of the calling thread's own work, (2, rounds, calls)."""
    found = torch.zeros(2, rounds, len(calls), dtype=torch.float64)
    gc.collect()
    gc.disable()
    try:
        for i in range(-warm, rounds):
            for j, call in enumerate(calls):
                models[j].restore()
                dist.barrier()
                start, own = time.perf_counter_ns(), time.thread_time_ns()
                call()
                own, end = time.thread_time_ns() - own, time.perf_counter_ns()
                if i >= 0:
                    found[:, i, j] = torch.tensor([end - start, own]) * 1e-9
    finally:
        gc.enable()
    return found


def _work(rank: int, folder: str, names: Sequence[str], rounds: int | None) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    try:
        for name in names:
            rows = rows_of(name, rounds)
            if rank == 0:
                text = json.dumps([dataclasses.asdict(row) for row in rows])
                Path(folder, f"{name}.json").write_text(text, encoding="utf-8")
    finally:
        dist.destroy_process_group()


def measured(names: Sequence[str], rounds: int | None = None) -> list[Row]:
    """The rows of some models, from two processes that this one waits for."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_work, (folder, tuple(names), rounds), nprocs=RANKS)
        texts = [Path(folder, f"{name}.json").read_text(encoding="utf-8") for name in names]
    return [Row(**row) for text in texts for row in json.loads(text)]
