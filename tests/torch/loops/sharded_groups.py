"""Parameters that no mesh describes, spread over four ranks in several ways, with gradients of a formula.

The gradient of each parameter depends on the parameter, the step, and its name alone, so that every layout
can be compared with one process that has all of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

import clipwise
from clipwise.errors import ClipwiseError
from tests.torch.loops.sharded import RANKS, Collectives, whole

STEPS = 20
SHAPES = {
    "dense": (8, 6),
    "bias": (5,),
    "expert@0": (3, 4),
    "expert@1": (3, 4),
    "expert@2": (3, 4),
    "expert@3": (3, 4),
    "embed": (6, 2),
    "early": (5, 4),
    "late": (3, 4),
}
"""Of all parameters that there are in any layout, by the name that all ranks know them by."""


def random(name: str, step: int) -> Tensor:
    seed = zlib.crc32(f"{name} {step}".encode())
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(seed))


def gradient(name: str, step: int, parameter: Any) -> Tensor:
    """Every third is large."""
    scale = 3.0 if step % 3 == 2 else 0.05
    target = _laid(random(name, step), parameter)
    return (parameter.detach() - target) * scale


def _laid(value: Tensor, like: Any) -> Any:
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


class Layout:
    """What one rank has.

    Attributes:
        known: its parameters by the name that all ranks know them by.
        names: what this rank calls them.
        groups: for ``process_groups=``.
    """

    def __init__(self, groups: Any = None) -> None:
        self.known: dict[str, nn.Parameter] = {}
        self.names: dict[str, str] = {}
        self.groups = groups
        self.partial: set[str] = set()

    def add(self, known: str, mesh: Any = None, *placements: Any, name: str = "") -> Layout:
        value: Any = random(known, -1)
        if mesh is not None:
            value = distribute_tensor(value, mesh, placements, src_data_rank=None)
        self.known[known] = nn.Parameter(value)
        self.names[known] = name or known
        return self

    def give_gradients(self, step: int) -> None:
        for known, parameter in self.known.items():
            value = gradient(known, step, parameter).to(parameter.dtype)
            parameter.grad = _parts(value, parameter) if known in self.partial else value


def _parts(value: Any, parameter: Any) -> DTensor:
    """A gradient as partial sums over the last axis of its mesh: what one rank has too much another lacks."""
    mesh = parameter.device_mesh
    spread = [*parameter.placements[:-1], Replicate()]
    own = value.redistribute(placements=spread).to_local()
    count, place = mesh.size(mesh.ndim - 1), mesh.get_coordinate()[-1]
    own = own / count + (place - (count - 1) / 2)
    placements = [*parameter.placements[:-1], Partial()]
    shape, stride = parameter.shape, parameter.stride()
    return DTensor.from_local(own, mesh, placements, run_check=False, shape=shape, stride=stride).detach()


def alone(*names: str) -> Layout:
    layout = Layout()
    for name in names:
        layout.add(name)
    return layout


def flat() -> DeviceMesh:
    return init_device_mesh("cpu", (RANKS,))


def square() -> DeviceMesh:
    return init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))


def group_of(*some: list[int]) -> Any:
    """Of several groups the one that this rank is in; every rank makes all of them."""
    made = [(ranks, dist.new_group(ranks)) for ranks in some]
    return next((group for ranks, group in made if dist.get_rank() in ranks), None)


# The layouts, each with the names that one process has.


def experts() -> Layout:
    """A plain expert on each rank, beside a dense shard and a replica."""
    layout = Layout({"expert": dist.group.WORLD})
    layout.add("dense", flat(), Shard(0)).add("bias")
    return layout.add(f"expert@{dist.get_rank()}", name="expert")


def repeated_experts() -> Layout:
    """Two experts, and the same two again."""
    layout = Layout({"exp*": group_of([0, 1], [2, 3])}).add("dense", flat(), Shard(0))
    return layout.add(f"expert@{dist.get_rank() % 2}", name="expert")


def expert_meshes() -> Layout:
    """Two experts, each split over a mesh of its own ranks, beside a mesh of all ranks."""
    meshes = [DeviceMesh("cpu", [0, 1]), DeviceMesh("cpu", [2, 3])]
    which = dist.get_rank() // 2
    layout = Layout({"expert": group_of([0, 2], [1, 3])}).add("dense", flat(), Shard(0))
    return layout.add(f"expert@{which}", meshes[which], Shard(0), name="expert")


def stages() -> Layout:
    """Two stages of different parameters, each split over two ranks; weights tied under two names."""
    mesh = square()
    layout = Layout({"head": "embed", "*": mesh["outer"]})
    if dist.get_rank() < 2:
        return layout.add("embed").add("early", mesh["inner"], Shard(0))
    return layout.add("late", mesh["inner"], Shard(0)).add("embed", name="head")


def plain_stages() -> Layout:
    """Two pipelines that are copies of each other, whose ranks need not speak: plain tensors, one tied."""
    layout = Layout({"embed": None, "*": group_of([0, 1], [2, 3])}).add("embed")
    return layout.add("late" if dist.get_rank() % 2 else "early")


def empty_stage() -> Layout:
    """The last rank has nothing."""
    layout = Layout({"*": dist.group.WORLD})
    return layout if dist.get_rank() == 3 else layout.add(["early", "late", "bias"][dist.get_rank()])


def partial() -> Layout:
    """Gradients that are partial sums: two that go together, and one on another mesh."""
    mesh = square()
    layout = Layout().add("dense", mesh, Shard(0), Replicate()).add("early", mesh, Shard(1), Replicate())
    layout.add("bias", flat(), Shard(0)).add("late", flat(), Replicate())
    layout.partial = {"dense", "early", "bias"}
    return layout


def halves() -> Layout:
    """Two ranks and two ranks that know nothing of each other, each on a mesh of two dimensions."""
    meshes = [DeviceMesh("cpu", [[0, 1]]), DeviceMesh("cpu", [[2, 3]])]
    return Layout().add("dense", meshes[dist.get_rank() // 2], Replicate(), Shard(0))


def dtypes() -> Layout:
    """Three dtypes, the narrowest of them with gradients whose squares float32 does not hold."""
    mesh = flat()
    layout = Layout().add("dense", mesh, Shard(0)).add("early", mesh, Shard(0)).add("bias")
    for known, dtype in (("early", torch.bfloat16), ("bias", torch.float64)):
        layout.known[known] = nn.Parameter(layout.known[known].detach().to(dtype))
    return layout


LAYOUTS: dict[Callable[[], Layout], tuple[str, ...]] = {
    experts: ("dense", "bias", "expert@0", "expert@1", "expert@2", "expert@3"),
    repeated_experts: ("dense", "expert@0", "expert@1"),
    expert_meshes: ("dense", "expert@0", "expert@1"),
    stages: ("embed", "early", "late"),
    plain_stages: ("embed", "early", "late"),
    empty_stage: ("early", "late", "bias"),
    partial: ("dense", "early", "bias", "late"),
    halves: ("dense",),
}


class Bytes:
    """Adds up what goes into all-reduces in the time of a ``with``."""

    count = 0

    def __enter__(self) -> Bytes:
        self._all_reduce = dist.all_reduce
        dist.all_reduce = self._counted
        return self

    def _counted(self, tensor: Tensor, *args: Any, **keywords: Any) -> Any:
        self.count += tensor.numel() * tensor.element_size()
        return self._all_reduce(tensor, *args, **keywords)

    def __exit__(self, *args: Any) -> None:
        dist.all_reduce = self._all_reduce


class Run:
    """A clipper on a layout, and steps of plain descent with momentum."""

    def __init__(self, layout: Layout, clip: Any, **keywords: Any) -> None:
        self.layout = layout
        named = [(layout.names[known], p) for known, p in layout.known.items()]
        self.clipper = clipwise.torch.Clipper(named, clip, process_groups=layout.groups, **keywords)
        self.optimizer = torch.optim.SGD([p for _, p in named], lr=0.05, momentum=0.9) if named else None
        self.reports: list[dict[str, Any]] = []
        self.collectives: list[int] = []
        self.sent: list[int] = []

    def step(self, step: int, change: Callable[[Layout], None] = lambda layout: None) -> None:
        self.layout.give_gradients(step)
        change(self.layout)
        if step < 2:
            with Collectives() as collectives, Bytes() as sent:
                report = self.clipper.clip_()
            self.collectives.append(collectives.count)
            self.sent.append(sent.count)
        else:
            report = self.clipper.clip_()
        norms = dict(zip(report.names, report.tensor_norms.tolist(), strict=True))
        self.reports.append(
            {
                "norm": float(report.norm),
                "norm_after": float(report.norm_after),
                "threshold": float(report.threshold),
                "clip_fraction": float(report.clip_fraction),
                "worst": max(norms, key=norms.__getitem__),
                "norms": {name: norms[name] for name in sorted(norms)},
            }
        )
        if self.optimizer is not None and not report.skipped:
            self.optimizer.step()

    def found(self) -> dict[str, Any]:
        parameters = {name: whole(p).detach().clone() for name, p in self.layout.known.items()}
        sent = {"collectives": self.collectives, "bytes": self.sent}
        return sent | {"reports": self.reports, "parameters": parameters}


def run(layout: Layout, clip: Any, **keywords: Any) -> dict[str, Any]:
    found = Run(layout, clip, **keywords)
    for step in range(STEPS):
        found.step(step)
    return found.found()


def refused(make: Callable[[], Any]) -> str:
    """The error that a rank raises."""
    try:
        make()
    except ClipwiseError as error:
        return f"{type(error).__name__}: {error}"
    return ""
