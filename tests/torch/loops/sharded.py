"""A model spread over four processes in several ways, and what one process makes of the same data."""

from __future__ import annotations

import multiprocessing
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import clipwise

RANKS, STEPS = 4, 20
COUNTED = 3
"""Steps of a run in which collectives are counted: the last of them is clipped."""

Layout = Callable[["Net"], None]


class Net(nn.Module):
    """On four ranks: even shards, uneven ones, empty ones, and a plain parameter beside them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.plain = nn.Parameter(torch.tensor([1.0, 0.5, 2.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).tanh()) * self.plain


def data(step: int) -> Tensor:
    return torch.randn(8, 6, generator=torch.Generator().manual_seed(step))


def backward(model: nn.Module, step: int, part: int = 0, parts: int = 1) -> Tensor:
    """Every third gradient is large, the others small: some steps are clipped and some are not."""
    model.zero_grad()
    own = data(step).chunk(parts)[part]
    loss = model(own).square().mean() * (10.0 if step % 3 == 2 else 0.1)
    loss.backward()
    return loss.detach()


# The layouts. Each spreads a model in place and says how many parts of the data there are, and which is ours.


def fsdp(model: Net) -> tuple[int, int]:
    fully_shard(model, mesh=init_device_mesh("cpu", (RANKS,)), ignored_params={model.plain})
    return dist.get_rank(), RANKS


def hsdp(model: Net) -> tuple[int, int]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    fully_shard(model, mesh=mesh, ignored_params={model.plain})
    return dist.get_rank(), RANKS


def two_meshes(model: Net) -> tuple[int, int]:
    fully_shard(model.first, mesh=init_device_mesh("cpu", (RANKS,)))
    fully_shard(model.last, mesh=init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner")))
    return dist.get_rank(), RANKS


def fsdp_tp(model: Net) -> tuple[int, int]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    _parallel(model, mesh["tensor"])
    fully_shard(model, mesh=mesh["data"], ignored_params={model.plain})
    return mesh["data"].get_local_rank(), 2


def tensor(model: Net) -> tuple[int, int]:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("same", "tensor"))
    _parallel(model, mesh["tensor"])  # the mesh says nothing of the other dimension
    return 0, 1


def _parallel(model: Net, mesh: Any) -> None:
    parallelize_module(model, mesh, {"first": ColwiseParallel(), "last": RowwiseParallel()})


LAYOUTS = {f.__name__: f for f in (fsdp, hsdp, two_meshes, fsdp_tp, tensor)}


def reports_of(clipper: Any) -> dict[str, Any]:
    report = clipper.report
    numbers = ("norm", "norm_after", "threshold", "clip_fraction")
    found = {name: float(getattr(report, name)) for name in numbers}
    norms = report.tensor_norms
    assert all(type(x) is Tensor for x in (report.norm, norms))
    return found | {
        "tensor_norms": norms.tolist(),
        "names": list(report.names),
        "skipped": bool(report.skipped),
        "nonfinite": int(report.nonfinite),
        "direction": None if report.direction is None else float(report.direction),
    }


class Run:
    """A model in a layout, a clip attached to its optimizer, and the loop around them.

    Args:
        layout: None: all of it is here.
        clip: for `attach`, with its keywords.
    """

    def __init__(self, layout: str | None, clip: Any, **keywords: Any) -> None:
        self.model = Net()
        self.part, self.parts = LAYOUTS[layout](self.model) if layout else (0, 1)
        self.together = layout is not None
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.02, momentum=0.9)
        self.clipper = clipwise.torch.attach(self.optimizer, clip, model=self.model, **keywords)
        self.reports: list[dict[str, Any]] = []
        self.collectives: list[int] = []

    def backward(self, step: int) -> Tensor:
        loss = backward(self.model, step, self.part, self.parts)
        if self.together and type(self.model.plain) is nn.Parameter:
            dist.all_reduce(self.model.plain.grad)  # of a parameter that nothing synchronises
            self.model.plain.grad /= RANKS
        return loss

    def step(self, step: int, change: Callable[[nn.Module], None] = lambda model: None) -> None:
        loss = self.backward(step)
        change(self.model)
        self.clipper.observe(loss)
        if len(self.collectives) < COUNTED:  # to count takes longer than the step
            with Collectives() as collectives:
                self.optimizer.step()
            self.collectives.append(collectives.count)
        else:
            self.optimizer.step()
        self.reports.append(reports_of(self.clipper))

    def parameters(self) -> list[Tensor]:
        return [whole(p).detach().clone() for p in self.model.parameters()]

    def gradients(self) -> list[Tensor | None]:
        return [None if p.grad is None else whole(p.grad).clone() for p in self.model.parameters()]


def whole(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


class Collectives:
    """Counts what is sent, by torch.distributed and by DTensors, in the time of a ``with``."""

    count = 0

    def __enter__(self) -> Collectives:
        self._mode = CommDebugMode()
        self._mode.__enter__()
        return self

    def __exit__(self, *args: Any) -> None:
        self._mode.__exit__(*args)
        self.count = self._mode.get_total_counts()


# The processes.


def _work(rank: int, folder: str, function: Callable[[str], Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    try:
        found = function(folder)
    except BaseException:
        found = traceback.format_exc()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def on_all_ranks(function: Callable[[str], Any], folder: Path, limit: float = 240.0) -> list[Any]:
    """What a function returns on each of the ranks, which begin from one process that has imported torch."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, function.__module__])
    ranks = [
        context.Process(target=_work, args=(rank, str(folder), function), daemon=True)
        for rank in range(RANKS)
    ]
    for process in ranks:
        process.start()
    end = time.monotonic() + limit
    for process in ranks:
        process.join(max(0.0, end - time.monotonic()))
        if process.is_alive():
            process.kill()
    found = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]
    for one in found:
        assert not isinstance(one, str), one
    return found
